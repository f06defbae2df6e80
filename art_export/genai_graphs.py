"""The bundle's graphs on onnxruntime-genai's terms.

It runs a picture and a chat through three sessions of its own, and its terms differ from an
engine's in three points. A small graph beside ours meets each; they hold no weights, but point into
the bundle's one file of them.

- Pictures come as its processor's patches: the vision graph turns them back into pixels, and
  rounds, so that the model sees the picture's own bytes.
- Visual tokens are put among the embeddings by a graph.
- Logits are wanted for every position, and nothing says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from engines.layout import PictureLayout
from engines.onnxruntime_engine import GRAPHS

GENAI_GRAPHS = {
    "vision": "onnx/genai_vision.onnx",
    "embed": "onnx/genai_embedding.onnx",
    "decoder": "onnx/genai_decoder.onnx",
}
WHITE = 255


def write_graphs(
    folder: Path, layout: PictureLayout, processor: Mapping[str, Any]
) -> Mapping[str, ir.Model]:
    """Write the three graphs into a bundle with ONNX Runtime's, and return them.

    Args:
        processor: preprocessor_config.json of a Qwen model.
    """
    models = {part: ir.load(folder / path) for part, path in GRAPHS.items()}
    _adapt_vision(models["vision"].graph, layout, processor)
    features = models["vision"].graph.outputs[0]
    _adapt_embedding(models["embed"].graph, features, layout.image_token_id)
    _adapt_decoder(models["decoder"].graph)
    for part, path in GENAI_GRAPHS.items():
        ir.save(models[part], folder / path)
        onnx.checker.check_model(str(folder / path), full_check=True)
    return models


def shares_buffers(decoder: ir.Graph) -> bool:
    """Whether keys and values of past and present may be one buffer, longer than what is in it:
    the attention must read how long the past is off the mask, never off the buffer."""
    users = {
        node.op_type
        for value in decoder.inputs
        if str(value.name).startswith("past_key_values.")
        for node, _ in value.uses()
    }
    return users == {"GroupQueryAttention"}


def row_width(value: ir.Value) -> int:
    """The size of a tensor's last axis, which does not vary."""
    if value.shape is None or not isinstance(value.shape[-1], int):
        raise RuntimeError(f"the last axis of {value.name} has no fixed size")
    return value.shape[-1]


def _adapt_vision(graph: ir.Graph, layout: PictureLayout, processor: Mapping[str, Any]) -> None:
    """pixel_values fp32 (patches, values) -> visual tokens (tokens, width) of one picture."""
    pixels, features, first = graph.inputs[0], graph.outputs[0], graph[0]
    build = _Builder(graph, before=first)
    patch, frames, merge = (
        processor[name] for name in ("patch_size", "temporal_patch_size", "merge_size")
    )
    size, cells = layout.size, layout.size // patch // merge
    values = ir.val(
        "pixel_values",
        shape=["patches", 3 * frames * patch * patch],
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    # One picture: patches of a larger one must not pass for several.
    axes = build.constant([1, cells, cells, merge, merge, 3, frames, patch, patch])
    # A still picture is repeated in every frame: the first one has it all.
    still = build.add("Gather", build.add("Reshape", values, axes), build.constant(0), axis=6)
    image = build.add("Transpose", still, perm=[0, 1, 3, 6, 2, 4, 7, 5])
    image = build.add("Reshape", image, build.constant([1, size, size, 3]))
    std, mean = (
        build.constant(WHITE * np.array(processor[name], np.float32))
        for name in ("image_std", "image_mean")
    )
    levels = build.add("Round", build.add("Add", build.add("Mul", image, std), mean))
    pixels.replace_all_uses_with(build.add("Cast", levels, to=ir.DataType.UINT8))
    graph.inputs[0] = values
    after = _Builder(graph)
    shape = [layout.tokens, row_width(features)]
    after.finish(after.add("Reshape", features, after.constant(shape)), shape)


def _adapt_embedding(graph: ir.Graph, features: ir.Value, image_token_id: int) -> None:
    """input_ids, image_features (image_tokens, width) -> inputs_embeds, with visual tokens, in
    order, at the placeholders."""
    text, build = graph.outputs[0], _Builder(graph)
    seen = ir.val("image_features", shape=["image_tokens", row_width(features)], type=features.type)
    graph.inputs.append(seen)
    is_image = build.add("Equal", graph.inputs[0], build.constant(image_token_id))
    places = build.add("Transpose", build.add("NonZero", is_image), perm=[1, 0])
    if text.dtype is not None and features.dtype != text.dtype:
        seen = build.add("Cast", seen, to=text.dtype)
    build.finish(build.add("ScatterND", text, places, seen), text.shape)


def _adapt_decoder(graph: ir.Graph) -> None:
    """Logits of every position: the input that chooses becomes the constant 0."""
    keep = next(value for value in graph.inputs if value.name == "num_logits_to_keep")
    graph.inputs.remove(keep)
    keep.const_value = ir.tensor(np.array(0, np.int64), name=keep.name)
    graph.register_initializer(keep)


class _Builder:
    """Adds nodes to the end of a graph, or before one of its nodes."""

    def __init__(self, graph: ir.Graph, before: ir.Node | None = None) -> None:
        self._graph, self._before = graph, before

    def add(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """The one output of a new node."""
        node = ir.node(kind, inputs, attributes)
        if self._before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._before, node)
        return node.outputs[0]

    def constant(self, content: Any) -> ir.Value:
        """An initializer; Python's numbers are int64."""
        name = f"genai_constant_{len(self._graph.initializers)}"
        array = np.asarray(content)
        tensor = ir.tensor(array, name=name)
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=kind, const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def finish(self, value: ir.Value, shape: Any) -> None:
        """Make `value` the graph's output in the place of the one that it was made from."""
        old = self._graph.outputs[0]
        value.shape, value.type = ir.Shape(shape), old.type
        value.name, old.name = old.name, f"{old.name}_ours"
        self._graph.outputs[0] = value
