"""Room for LoRA in a decoder's graph: two optional inputs for every linear layer.

A layer computes x W + (x A) B, where A is (rows, inputs, rank) and B (rows, rank, outputs), rows
being 1 for one adapter or the batch for one a row (Hu et al., arXiv 2106.09685, equation 3, with
its factor alpha / r inside B). Both are inputs with a default of rank 0, which adds zeros: a graph
that is run without an adapter gives what it gave before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import nn

from engines.onnxruntime_lora import LORA_A, LORA_B

PRODUCT = "FusedMatMul"
ROWS, RANK = "lora_rows", "lora_rank"


def linear_names(model: Any, decoder: nn.Module, prefix: str = "decoder.") -> dict[str, str]:
    """Weight of a linear layer in the graph of `decoder` -> the layer's name in the transformers
    model that it was made from, as peft has it. The head over the vocabulary is left out."""
    layers = {
        id(module.weight): name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    head = id(model.get_output_embeddings().weight)
    return {
        prefix + name: layers[id(weight)]
        for name, weight in decoder.named_parameters()
        if id(weight) in layers and id(weight) != head
    }


def reserve(decoder: ir.Model, layers: Mapping[str, str]) -> None:
    """Give every linear layer of a graph of the form `kernels` its two inputs, in place.

    Args:
        layers: as `linear_names` gives them.

    Raises:
        RuntimeError: a layer is not in the graph.
    """
    graph = decoder.graph
    products = {weight.name: node for node in graph if (weight := _weight_of(node)) is not None}
    missing = [name for name in layers if name not in products]
    if missing or not layers:
        raise RuntimeError(f"no product with {', '.join(missing) or 'any weight'} in the graph")
    for name, layer in layers.items():
        _beside(graph, products[name], layer)


def _weight_of(node: ir.Node) -> ir.Value | None:
    return node.inputs[1] if node.op_type == PRODUCT else None


def _beside(graph: ir.Graph, product: ir.Node, layer: str) -> None:
    inputs, weight = product.inputs
    if weight is None or weight.const_value is None:
        raise RuntimeError(f"the weight of {layer} is not constant")
    outputs, width = weight.const_value.shape.numpy()
    down = _optional(graph, LORA_A + layer, (width, RANK), weight.const_value)
    up = _optional(graph, LORA_B + layer, (RANK, outputs), weight.const_value)
    plain = product.outputs[0]
    users = list(plain.uses())
    made = list(_added(inputs, down, up, plain))
    for node, place in users:
        node.replace_input_with(place, made[-1].outputs[0])
    graph.insert_after(product, made)


def _added(x: ir.Value | None, down: ir.Value, up: ir.Value, plain: ir.Value) -> Iterator[ir.Node]:
    """x A, (x A) B, and the sum with what the layer gives."""
    narrow = ir.node("MatMul", [x, down])
    wide = ir.node("MatMul", [narrow.outputs[0], up])
    total = ir.node("Add", [plain, wide.outputs[0]])
    total.outputs[0].shape, total.outputs[0].type = plain.shape, plain.type
    yield from (narrow, wide, total)


def _optional(
    graph: ir.Graph, name: str, axes: tuple[int | str, int | str], like: ir.TensorProtocol
) -> ir.Value:
    """An input (ROWS, *axes) that is empty unless it is fed."""
    shape = (1, *(axis if isinstance(axis, int) else 0 for axis in axes))
    default = np.zeros(shape, like.dtype.numpy())
    value = ir.Value(
        name=name,
        shape=ir.Shape([ROWS, *axes]),
        type=ir.TensorType(like.dtype),
        const_value=ir.Tensor(default, name=name),
    )
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value
