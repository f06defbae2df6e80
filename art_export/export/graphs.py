"""The three graphs of a model, exported by torch.onnx from its parts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from art_export.export.forms import Form, find_form
from engines.families.parts import Parts, State

AUTO = torch.export.Dim.AUTO
BATCH, LENGTH, PAST, TOTAL = (
    "batch_size",
    "sequence_length",
    "past_sequence_length",
    "total_sequence_length",
)
# No two sample sizes are equal, or the exporter would take two axes for one.
SAMPLE = {BATCH: 2, LENGTH: 5, PAST: 7}


@dataclass(frozen=True, eq=False)
class Signature:
    """What one graph takes and gives: sample inputs, and for every input and output its name
    and the names of its dynamic axes."""

    samples: tuple[Any, ...]
    inputs: Mapping[str, Mapping[int, str]]
    outputs: Mapping[str, Mapping[int, str]]


class _DecoderGraph(nn.Module):
    """The decoder with its arguments in the order of the graph's inputs."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        num_logits_to_keep: torch.Tensor,
        *state: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        logits, present = self.decoder(
            inputs_embeds, attention_mask, position_ids, state, num_logits_to_keep
        )
        return (logits, *present)


def export_parts(parts: Parts, form: str = "kernels") -> Iterator[tuple[str, ir.Model]]:
    """Yield ("vision" | "embed" | "decoder", graph), one after another, in the form `form`."""
    found = find_form(form)
    yield "vision", _export(parts.vision, _vision_signature(parts), found)
    yield "embed", _export(parts.embed, _embed_signature(), found)
    yield "decoder", _export(_DecoderGraph(parts.decoder), _decoder_signature(parts), found)


def _vision_signature(parts: Parts) -> Signature:
    size = parts.picture_size
    pixels = torch.zeros(SAMPLE[BATCH], size, size, 3, dtype=torch.uint8)
    return Signature((pixels,), {"pixels": {0: BATCH}}, {"image_features": {0: BATCH}})


def _embed_signature() -> Signature:
    ids = torch.zeros(SAMPLE[BATCH], SAMPLE[LENGTH], dtype=torch.int64)
    axes = {0: BATCH, 1: LENGTH}
    return Signature((ids,), {"input_ids": axes}, {"inputs_embeds": axes})


def _decoder_signature(parts: Parts) -> Signature:
    batch, length, past = SAMPLE[BATCH], SAMPLE[LENGTH], SAMPLE[PAST]
    with torch.no_grad():
        embeddings = parts.embed(torch.zeros(batch, length, dtype=torch.int64))
    samples = (
        torch.zeros_like(embeddings),
        torch.ones(batch, past + length, dtype=torch.int64),
        torch.zeros(3, batch, length, dtype=torch.int64),
        torch.tensor(1),
        *_sample_state(parts, batch, past),
    )
    inputs = {
        "inputs_embeds": {0: BATCH, 1: LENGTH},
        "attention_mask": {0: BATCH, 1: TOTAL},
        "position_ids": {1: BATCH, 2: LENGTH},
        "num_logits_to_keep": {},
    }
    outputs: dict[str, Mapping[int, str]] = {"logits": {0: BATCH, 1: "num_logits"}}
    for spec in parts.state:
        grows = spec.length_axis
        inputs[spec.past] = {0: BATCH} if grows is None else {0: BATCH, grows: PAST}
        outputs[spec.present] = {0: BATCH} if grows is None else {0: BATCH, grows: TOTAL}
    return Signature(samples, inputs, outputs)


def _sample_state(parts: Parts, batch: int, past: int) -> State:
    return tuple(
        like.new_zeros(batch, *(past if n is None else n for n in spec.shape))
        for spec, like in zip(parts.state, parts.empty_state(1), strict=True)
    )


def _export(module: nn.Module, signature: Signature, form: Form) -> ir.Model:
    axes = [dict.fromkeys(dynamic, AUTO) for dynamic in signature.inputs.values()]
    # *state arrives as one tuple argument of forward.
    variadic = isinstance(module, _DecoderGraph)
    shapes = (*axes[:4], tuple(axes[4:])) if variadic else tuple(axes)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            module.eval(), signature.samples, dynamic_shapes=shapes, strict=False
        )
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=form.OPSET,
            custom_translation_table=dict(form.lowerings()),
            verbose=False,
        )
    if onnx_program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return _named(onnx_program.model, signature)


def _named(model: ir.Model, signature: Signature) -> ir.Model:
    """Give inputs, outputs and dynamic axes their public names."""
    renamed: dict[str, str] = {}
    for values, named in (
        (model.graph.inputs, signature.inputs),
        (model.graph.outputs, signature.outputs),
    ):
        for value, (name, axes) in zip(values, named.items(), strict=True):
            value.name = name
            for axis, label in axes.items():
                renamed[str(_shape(value)[axis])] = label
    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape(
                [renamed.get(str(n), str(n)) if isinstance(n, ir.SymbolicDim) else n
                 for n in value.shape]
            )  # fmt: skip
    return model


def _shape(value: ir.Value) -> ir.Shape:
    if value.shape is None:
        raise RuntimeError(f"the exporter gave {value.name} no shape")
    return value.shape


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def count_nodes(model: ir.Model) -> int:
    """Nodes of a graph, those in bodies of control flow and in functions that it calls included."""
    functions = {function.identifier(): function for function in model.functions.values()}

    def count(node: ir.Node) -> int:
        called = functions.get(node.op_identifier())
        inner = sum(map(count, called)) if called else 1
        bodies = [
            a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH
        ]
        return inner + sum(count(each) for body in bodies for each in body)

    return sum(map(count, model.graph))
