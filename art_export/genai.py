"""What makes a bundle a model folder of onnxruntime-genai too.

Beside its graphs it needs genai_config.json, the steps of its own image processor, and to be told
which of its tokenizers reads tokenizer.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir

from art_export.genai_graphs import GENAI_GRAPHS, row_width, shares_buffers, write_graphs
from engines.chat import Chat
from engines.model import load_config

CONFIG_NAME = "genai_config.json"
PROCESSOR_NAME = "genai_processor.json"
"""Not processor_config.json, which is Hugging Face's."""
TOKENIZER_NAME = "tokenizer_module.json"
"""Overrides tokenizer_config.json, for onnxruntime-genai only."""
TYPES = {
    "qwen2_vl": "qwen2_5_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_5": "qwen3_5",
}
"""Family -> its type in onnxruntime-genai, for those that it runs as PyTorch does. The type decides
how positions are counted, and still pictures count alike in all of these; everything else that
makes up a model is in its graphs. DeepStack too: its features travel in the embeddings' width."""
LONGEST = 4096
"""Tokens that onnxruntime-genai makes room for unless it is told another max_length."""
STATE_NAMES = {
    "key": ("past_key_values.%d.key", "present.%d.key"),
    "value": ("past_key_values.%d.value", "present.%d.value"),
    "conv": ("past_conv.%d", "present_conv.%d"),
    "recurrent": ("past_recurrent.%d", "present_recurrent.%d"),
}


def write_genai(folder: Path, chat: Chat, max_length: int) -> bool:
    """Write all that onnxruntime-genai needs into a bundle with ONNX Runtime's graphs.

    Args:
        folder: with the model's configurations, the tokenizer's files and the graphs.
        max_length: most tokens of a sequence.

    Returns:
        False, with nothing written, for a family that onnxruntime-genai cannot run as PyTorch does.
    """
    config = load_config(folder)
    if config.model_type not in TYPES:
        return False
    processor = json.loads((folder / "preprocessor_config.json").read_text("utf-8"))
    graphs = write_graphs(folder, chat.layout, processor)
    decoder = graphs["decoder"].graph
    search = {
        "do_sample": False,
        "max_length": min(max_length, LONGEST),
        "past_present_share_buffer": shares_buffers(decoder),
    }
    model = _model(config, chat, decoder, max_length)
    _write(folder / CONFIG_NAME, {"model": model, "search": search})
    _write(folder / PROCESSOR_NAME, _image_processor(processor))
    _write(folder / TOKENIZER_NAME, {"tokenizer_class": "Qwen2Tokenizer"})
    return True


def _model(config: Any, chat: Chat, decoder: ir.Graph, max_length: int) -> dict[str, Any]:
    # Wherever it stands in a prompt it is masked, so it must not be what ends a turn.
    pad = chat.tokenizer.pad_token_id
    if pad is None or pad == chat.eos_ids[0]:
        pad = config.video_token_id
    return {
        "type": TYPES[config.model_type],
        "vocab_size": row_width(decoder.outputs[0]),
        "context_length": max_length,
        "bos_token_id": chat.tokenizer.bos_token_id or chat.eos_ids[0],
        "eos_token_id": list(chat.eos_ids),
        "pad_token_id": pad,
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        "vision_start_token_id": config.vision_start_token_id,
        "decoder": _decoder(config.get_text_config(), decoder),
        "embedding": {
            "filename": GENAI_GRAPHS["embed"],
            "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
            "outputs": {"inputs_embeds": "inputs_embeds"},
        },
        "vision": {
            "filename": GENAI_GRAPHS["vision"],
            "config_filename": PROCESSOR_NAME,
            "spatial_merge_size": config.vision_config.spatial_merge_size,
            "patch_size": config.vision_config.patch_size,
            "inputs": {"pixel_values": "pixel_values", "image_grid_thw": "image_grid_thw"},
            "outputs": {"image_features": "image_features"},
        },
    }


def _decoder(text: Any, graph: ir.Graph) -> dict[str, Any]:
    names = {value.name for value in graph.inputs}
    kinds = {
        kind: templates
        for kind, templates in STATE_NAMES.items()
        if any(templates[0] % layer in names for layer in range(text.num_hidden_layers))
    }
    heads = text.num_attention_heads
    return {
        "filename": GENAI_GRAPHS["decoder"],
        "hidden_size": row_width(graph.inputs[0]),
        "head_size": getattr(text, "head_dim", None) or text.hidden_size // heads,
        "num_attention_heads": heads,
        "num_key_value_heads": text.num_key_value_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "inputs": {
            **{name: name for name in ("inputs_embeds", "attention_mask", "position_ids")},
            **{f"past_{kind}_names": past for kind, (past, _) in kinds.items()},
        },
        "outputs": {
            "logits": "logits",
            **{f"present_{kind}_names": present for kind, (_, present) in kinds.items()},
        },
    }


def _image_processor(processor: dict[str, Any]) -> dict[str, Any]:
    """Its steps without any resizing: a picture of another size then fails in the graph."""
    patches = {
        name: processor[name] for name in ("patch_size", "temporal_patch_size", "merge_size")
    }
    normal = {"mean": processor["image_mean"], "std": processor["image_std"], "qwen2_5_vl": 1}
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("decode_image", "DecodeImage", {"color_space": "RGB"}),
        ("convert_to_rgb", "ConvertRGB", {}),
        ("rescale", "Rescale", {"rescale_factor": processor["rescale_factor"]}),
        ("normalize", "Normalize", normal),
        ("patch_image", "PatchImage", patches),
    ]
    transforms = [
        {"operation": {"name": name, "type": kind, "attrs": attributes}}
        for name, kind, attributes in steps
    ]
    return {"processor": {"name": "qwen2_5_image_processor", "transforms": transforms}}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
