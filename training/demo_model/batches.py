"""Chats as padded tensors for pretraining."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import Qwen3_5ForConditionalGeneration, Qwen3_5Tokenizer

from training.demo_model.corpus import Chat

PROMPT_WEIGHT = 0.1
"""Share of the loss on tokens of the prompt, against 1 on tokens of the answer."""
PICTURE_ANSWER = 18.0
"""Weight of a whole answer beside a picture, about that of one without: else the two tokens of
"red" would count for nothing."""


@dataclass(frozen=True)
class Batch:
    """Right-padded chats.

    input_ids: int64 (batch, length); weights: fp32 (batch, length), the loss weight of each
    token as a target; answers: bool (batch, length); pixels: uint8 (batch, size, size, 3) or None.
    """

    input_ids: torch.Tensor
    weights: torch.Tensor
    answers: torch.Tensor
    pixels: torch.Tensor | None


def encode(tokenizer: Qwen3_5Tokenizer, chat: Chat, picture_tokens: int) -> tuple[list[int], int]:
    """Token ids of the whole chat, and where its answer starts."""
    picture = [{"type": "image"}] if chat.pixels is not None else []
    content = [*picture, {"type": "text", "text": chat.prompt}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    text = text.replace("<|image_pad|>", "<|image_pad|>" * picture_tokens)
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    answer = tokenizer(chat.answer, add_special_tokens=False).input_ids
    return [*prompt, *answer, tokenizer.eos_token_id], len(prompt)


def make_batch(tokenizer: Qwen3_5Tokenizer, chats: list[Chat], picture_tokens: int) -> Batch:
    """Pad `chats` (all with a picture or all without) into one batch."""
    rows = [encode(tokenizer, chat, picture_tokens) for chat in chats]
    length = max(len(ids) for ids, _ in rows)
    input_ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    weights = torch.zeros(len(rows), length)
    answers = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, (ids, start) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        weights[row, :start] = PROMPT_WEIGHT
        seen = chats[row].pixels is not None
        weights[row, start : len(ids)] = PICTURE_ANSWER / (len(ids) - start) if seen else 1.0
        answers[row, start : len(ids)] = True
    weights[input_ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")] = 0.0
    pictures = [torch.from_numpy(chat.pixels.copy()) for chat in chats if chat.pixels is not None]
    return Batch(input_ids, weights, answers, torch.stack(pictures) if pictures else None)


def patchify(pixels: torch.Tensor, patch: int, merge: int, temporal: int) -> torch.Tensor:
    """uint8 (batch, size, size, 3) -> fp32 (batch * patches, channels * temporal * patch^2).

    The order of transformers' Qwen2VLImageProcessor.patchify with mean and std 0.5.
    """
    batch, size = pixels.shape[0], pixels.shape[1]
    cells = size // patch // merge
    image = (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0).reshape(
        batch, 3, cells, merge, patch, cells, merge, patch
    )
    image = image.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]
    image = image.expand(*image.shape[:6], temporal, patch, patch)
    return image.reshape(batch * (size // patch) ** 2, -1)


def forward(
    model: Qwen3_5ForConditionalGeneration, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits (batch, length, vocabulary) and visual tokens (tokens, hidden) or None."""
    if batch.pixels is None:
        return model(input_ids=batch.input_ids, use_cache=False).logits, None
    vision = model.config.vision_config
    size = batch.pixels.shape[1]
    grid = torch.tensor([[1, size // vision.patch_size, size // vision.patch_size]])
    grid = grid.expand(len(batch.input_ids), 3)
    patches = patchify(
        batch.pixels, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    )
    features = model.get_image_features(patches, grid, return_dict=True).pooler_output
    visual = torch.cat(tuple(features))
    types = (batch.input_ids == model.config.image_token_id).int()
    position_ids, _ = model.model.get_rope_index(batch.input_ids[:1], types[:1], grid[:1])
    embeddings = model.get_input_embeddings()(batch.input_ids)
    embeddings = embeddings.masked_scatter(types.bool()[..., None], visual.to(embeddings.dtype))
    position_ids = position_ids.expand(3, len(batch.input_ids), -1)
    logits = model(inputs_embeds=embeddings, position_ids=position_ids, use_cache=False).logits
    return logits, visual
