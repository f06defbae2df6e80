"""Node counts: how large the decoder's graph is, by layer, in every family and both forms.

A node counts for the layer in whose module the exporter made it; nodes that say nothing of their
place, such as those that a rewrite put in, count for every layer. A call of a function counts as
one node, as it is one in the file, and the function's body is counted once, beside the layers.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import onnx_ir as ir
import pytest

from art_export.compilers.onnxruntime import share_buffers
from art_export.compilers.onnxruntime_fusion import fuse
from art_export.export import graphs
from art_export.export.forms import find_form
from art_export.export.portable import finish
from engines.families import FAMILIES, load_parts
from engines.model import load_model
from tests.models import TINY
from tests.portable import tiny_source

MOST = 60
BODIES = {"GatedDeltaRule": 102, "CausalConv": 8, "Attend": 20}
"""Nodes in the body of each function, constants included."""
LAYER = re.compile(r"layers\.(\d+)")
CASES = [
    pytest.param(family, form, marks=() if family == "qwen3_5" else pytest.mark.slow)
    for family in FAMILIES
    for form in ("kernels", "portable")
]


@cache
def _decoder(family: str, form: str) -> ir.Model:
    """The decoder's graph as it is written, without its weights' file."""
    parts = load_parts(load_model(tiny_source(family)), TINY[family].size)
    signature = graphs._decoder_signature(parts)
    model = graphs._export(graphs._DecoderGraph(parts.decoder), signature, find_form(form))
    if form == "portable":
        finish(model)
    else:
        share_buffers(model)
        fuse(model)
    return model


def _layers(model: ir.Model) -> dict[str, list[ir.Node]]:
    found: dict[str, list[ir.Node]] = {}
    everywhere = []
    for node in model.graph:
        place = node.metadata_props.get("namespace", "")
        if (layer := LAYER.search(place)) is not None:
            found.setdefault(layer[1], []).append(node)
        elif not place:
            everywhere.append(node)
    return {name: [*nodes, *everywhere] for name, nodes in found.items()}


@pytest.mark.parametrize(("family", "form"), CASES)
def test_a_layer_is_small(family: str, form: str) -> None:
    model = _decoder(family, form)
    counts = {name: len(nodes) for name, nodes in _layers(model).items()}
    assert len(counts) > 1
    assert max(counts.values()) <= MOST, counts
    bodies = {each.name: len(list(each.all_nodes())) for each in model.functions.values()}
    assert bodies.items() <= BODIES.items()
    if form == "kernels":
        assert not bodies


@pytest.mark.parametrize(("family", "form"), CASES)
def test_with_bodies_in_place_only_the_delta_rule_is_larger(family: str, form: str) -> None:
    """What a layer comes to where an engine inlines every call: see docs/engines.md."""
    for nodes in _layers(_decoder(family, form)).values():
        calls = Counter(node.op_type for node in nodes if node.op_type in BODIES)
        count = len(nodes) + sum((BODIES[name] - 1) * n for name, n in calls.items())
        assert count <= (160 if calls["GatedDeltaRule"] else MOST), calls
