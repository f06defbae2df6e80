"""The reference: Hugging Face's own `forward` and `generate` on the untouched model.

Nothing of this project's definition of the model is used here, neither its parts, nor its chat
format, nor its picture preprocessing: a mistake shared with them would otherwise pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engines.chat_template import ChatTemplate
from engines.families import picture_layout
from engines.image_processor import ImageProcessor, Pixels
from engines.model import ModelSource, eos_ids, load_model, load_tokenizer


@dataclass(frozen=True, eq=False)
class ReferenceAnswer:
    """token_ids: without the end token. logits: fp32 (steps, vocabulary), a row for each choice."""

    text: str
    token_ids: tuple[int, ...]
    logits: NDArray[np.float32]


class Reference:
    """A model with the tokenizer and the image processor that belong to it."""

    def __init__(self, source: ModelSource, dtype: str = "fp32") -> None:
        self.source = source
        self.model = load_model(source, dtype)
        self.tokenizer = load_tokenizer(source.path)
        self._ends = eos_ids(source.path, self.tokenizer)
        self._counts: dict[int, int] = {}
        self.processor = ImageProcessor(source.path)

    def check_size(self, size: int) -> None:
        """Raise ModelError unless the processor leaves pictures of size x size as they are."""
        self.processor.check_size(size, self.model.config)

    def processed(self, pixels: Pixels) -> dict[str, torch.Tensor]:
        """What the processor makes of one picture: pixel_values, and what the model takes beside
        them."""
        return self.processor.processed(pixels)

    @torch.inference_mode()
    def vision(self, pixels: Pixels) -> NDArray[np.float32]:
        """Visual tokens (tokens, hidden) of one picture; with DeepStack, the features of every
        depth follow each token in its row."""
        output = self.model.get_image_features(**self.processed(pixels), return_dict=True)
        # DeepStack's features follow each visual token in its row.
        stacked = getattr(output, "deepstack_features", None) or ()
        parts = [torch.cat(tuple(part)) for part in (output.pooler_output, *stacked)]
        features: NDArray[np.float32] = torch.cat(parts, dim=-1).float().numpy()
        return features

    @torch.inference_mode()
    def prefill_logits(self, prompt: str, pixels: Pixels | None) -> NDArray[np.float32]:
        """Logits (length, vocabulary) of the whole chat."""
        logits: NDArray[np.float32] = (
            self.model(**self.inputs([prompt], [pixels])).logits[0].float()
        )
        return np.asarray(logits)

    def generate(
        self,
        prompts: Sequence[str],
        pictures: Sequence[Pixels | None],
        max_new_tokens: int,
        batch_size: int = 32,
    ) -> list[ReferenceAnswer]:
        """Greedy answers. Prompts of one length share a batch, so nothing is ever padded."""
        groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for row, (prompt, pixels) in enumerate(zip(prompts, pictures, strict=True)):
            groups[(len(self._ids(prompt, pixels)), pixels is None)].append(row)
        answers: dict[int, ReferenceAnswer] = {}
        for rows in groups.values():
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                found = self._generate(
                    [prompts[row] for row in part], [pictures[row] for row in part], max_new_tokens
                )
                answers.update(zip(part, found, strict=True))
        return [answers[row] for row in range(len(prompts))]

    @torch.inference_mode()
    def _generate(
        self, prompts: Sequence[str], pictures: Sequence[Pixels | None], max_new_tokens: int
    ) -> list[ReferenceAnswer]:
        inputs = self.inputs(prompts, pictures)
        output = self.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            # Greedy is greedy: a model's own taste for variety is for sampling.
            repetition_penalty=1.0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = output.sequences[:, inputs["input_ids"].shape[1] :]
        logits = torch.stack(output.logits, dim=1).float().numpy()
        return [self._answer(ids, steps) for ids, steps in zip(new.tolist(), logits, strict=True)]

    def _answer(self, ids: list[int], logits: NDArray[np.float32]) -> ReferenceAnswer:
        length = next((i for i, token in enumerate(ids) if token in self._ends), len(ids))
        text = self.tokenizer.decode(ids[:length], skip_special_tokens=True)
        return ReferenceAnswer(str(text), tuple(ids[:length]), logits[: length + 1])

    def inputs(
        self, prompts: Sequence[str], pictures: Sequence[Pixels | None]
    ) -> dict[str, torch.Tensor]:
        """What `forward` and `generate` take, for prompts of one length."""
        ids = [self._ids(prompt, pixels) for prompt, pixels in zip(prompts, pictures, strict=True)]
        inputs = {"input_ids": torch.tensor(ids)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        seen = [self.processed(pixels) for pixels in pictures if pixels is not None]
        if seen:
            for name in seen[0]:
                inputs[name] = torch.cat([values[name] for values in seen])
            if "image_grid_thw" in seen[0]:
                is_picture = inputs["input_ids"] == self.model.config.image_token_id
                inputs["mm_token_type_ids"] = is_picture.int()
        return inputs

    def _ids(self, prompt: str, pixels: Pixels | None) -> list[int]:
        turns = ChatTemplate(self.tokenizer).turns(prompt, picture=pixels is not None)
        text = self.tokenizer.apply_chat_template(
            turns.messages,
            tools=turns.tools,
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,
        )
        if pixels is not None:
            # As the model's processor does: a placeholder for every visual token that the model
            # itself makes, between the markers of its family.
            layout = picture_layout(self.model.config, len(pixels))
            placeholder = self.tokenizer.decode([layout.image_token_id])
            picture = layout.opening + placeholder * self._count(len(pixels)) + layout.closing
            text = text.replace(placeholder, picture, 1)
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _count(self, size: int) -> int:
        """How many visual tokens the model makes of a picture of size x size."""
        if size not in self._counts:
            self._counts[size] = len(self.vision(np.zeros((size, size, 3), np.uint8)))
        return self._counts[size]
