"""Finding, hashing and loading a base model: the shipped one, a folder, or a hub id."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import ModelError
from engines.families import check_family

if TYPE_CHECKING:
    from safetensors import safe_open

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "models" / "demo"


@dataclass(frozen=True)
class ModelSource:
    """Where a base model lies: `name` as the user gave it, `revision` of a hub model."""

    name: str
    path: Path
    revision: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """config.json as it is."""
        loaded: dict[str, Any] = json.loads((self.path / "config.json").read_text("utf-8"))
        return loaded


def resolve_model(name: str) -> ModelSource:
    """`demo`, a local folder, or a hub id (downloaded into Hugging Face's cache).

    Raises:
        ModelError: there is no such model, it is incomplete, or its family is not supported.
    """
    folder = DEMO_FOLDER if name == DEMO else Path(name).expanduser()
    if folder.is_dir():
        source = ModelSource(name, folder)
    elif name == DEMO or folder.exists() or name.count("/") != 1 or name.startswith((".", "/")):
        raise ModelError(
            got=f"'{name}', which is not a folder",
            expected="'demo', a folder in Hugging Face's layout, or a hub id such as "
            "'Qwen/Qwen3.5-0.8B'",
            fix="check the spelling of the model's name or path",
        )
    else:
        source = _download(name)
    _check_folder(source)
    return source


def _download(name: str) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt"]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            got=f"'{name}', and the hub did not give it: {str(error).splitlines()[0]}",
            expected="the id of a public model, or of one that HF_TOKEN may read, and a network",
            fix="check the id and the network, or download the model and give its folder",
        ) from error
    return ModelSource(name, Path(folder), Path(folder).name)


def _check_folder(source: ModelSource) -> None:
    missing = [n for n in ("config.json", "tokenizer.json") if not (source.path / n).is_file()]
    if not missing and not weight_files(source.path):
        missing = ["*.safetensors"]
    if missing:
        raise ModelError(
            got=f"{source.path} without {', '.join(missing)}",
            expected="a model in Hugging Face's layout with safetensors weights",
            fix="download the whole model again",
        )
    try:
        kind = source.config.get("model_type", "unknown")
    except json.JSONDecodeError as error:
        raise ModelError(
            got=f"{source.path / 'config.json'}, which is not JSON: {error}",
            expected="Hugging Face's configuration of the model",
            fix="download the file again",
        ) from error
    check_family(kind)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, sorted by name."""
    return sorted(folder.glob("*.safetensors"))


def weights_sha256(folder: Path) -> str:
    """SHA-256 over every tensor's name, dtype, shape and bytes, in the order of names.

    The same weights have the same hash however they are cut into files.

    Raises:
        ModelError: a file is not safetensors, or is cut off.
    """
    from safetensors import SafetensorError

    digest = hashlib.sha256()
    try:
        for name, slice_of in sorted(_tensors(folder).items()):
            tensor = slice_of.get_tensor(name)
            head = f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode()
            digest.update(head)
            digest.update(_raw_bytes(tensor))
    except SafetensorError as error:
        raise ModelError(
            got=f"weights in {folder} that cannot be read: {error}",
            expected="complete safetensors files",
            fix="download the model again",
        ) from error
    return digest.hexdigest()


def _tensors(folder: Path) -> dict[str, safe_open]:
    from safetensors import safe_open

    found = {}
    for path in weight_files(folder):
        handle = safe_open(path, framework="pt")
        found.update(dict.fromkeys(handle.keys(), handle))
    return found


def _raw_bytes(tensor: Any) -> memoryview:
    import torch

    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())


DTYPES = ("fp32", "fp16", "bf16")


def load_model(source: ModelSource, dtype: str = "fp32") -> Any:
    """The untouched Hugging Face model in eval mode, with no gradients for weights.

    Args:
        dtype: of weights and arithmetic, one of DTYPES.
    """
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    logging.disable_progress_bar()
    model = AutoModelForImageTextToText.from_pretrained(source.path, dtype=kinds[dtype])
    return model.eval().requires_grad_(False)


def load_config(folder: Path) -> Any:
    """The configuration of a model's or a bundle's folder, in transformers' present form: older
    ones of a family lie flat on disk."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def load_tokenizer(folder: Path) -> Any:
    """The model's tokenizer, from a model's or a bundle's folder, with the model's chat template.

    Older folders keep the processor's template in chat_template.json, which AutoTokenizer does not
    read; the tokenizer may then carry that of the text model which it came from.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    older = folder / "chat_template.json"
    if older.is_file() and not (folder / "chat_template.jinja").is_file():
        tokenizer.chat_template = json.loads(older.read_text("utf-8"))["chat_template"]
    return tokenizer


def eos_ids(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end an answer: the tokenizer's, then what generation_config.json adds."""
    path = folder / "generation_config.json"
    listed = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
    more = [listed] if isinstance(listed, int) else list(listed or ())
    return tuple(dict.fromkeys([int(tokenizer.eos_token_id), *more]))
