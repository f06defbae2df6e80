"""Summaries, ratios and targets: figures follow from samples alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from art_export.bench.assemble import Found
from art_export.bench.results import SCHEMA, BenchResult, MethodResult, Summary
from art_export.bench.verdict import (
    AT_MOST,
    DECODE,
    FASTER,
    MERGE,
    MIXED,
    RUNTIME,
    ratios_of,
    targets_of,
)

SAMPLES = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=50)


@given(SAMPLES)
def test_a_summary_lies_within_its_samples(samples: list[float]) -> None:
    found = Summary.of(samples)
    slack = 1e-9 * max(samples)
    assert min(samples) - slack <= found.low <= found.median + slack
    assert found.median - slack <= found.high <= max(samples) + slack
    assert found.n == len(samples)


@given(SAMPLES, st.randoms(use_true_random=False))
def test_a_summary_knows_no_order(samples: list[float], random: object) -> None:
    mixed = list(samples)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert Summary.of(mixed) == Summary.of(samples)


def _found(method: str, deploys: list[dict[str, float]], **samples: list[float]) -> Found:
    return Found(method, [{"warm": {"deploys": deploys, **samples}}])


def _methods(**seconds: dict[str, float]) -> dict[str, MethodResult]:
    return {
        name.replace("_", "-"): MethodResult(
            "measured",
            to_first_token={where: Summary.of([value]) for where, value in each.items()},
        )
        for name, each in seconds.items()
    }


@given(st.floats(0.5, 2), st.floats(0.5, 2), st.floats(1, 500), st.floats(0.1, 10))
def test_targets_are_judged_by_the_ratios(
    decode: float, mixed: float, merge: float, runtime: float
) -> None:
    art = _found(
        "art", [{"a": 1.0}], **{"decode": [decode], "decode plain": [1.0], "again": [1.0],
                                "shipped": [1.0], "different": [mixed], "same": [1.0]}
    )  # fmt: skip
    lora = _found("lora-runtime", [{"a": 1.0}], **{"decode": [1.0], "decode plain": [1.0]})
    merged = Found("lora-merge", [{"merge": {"steps": {}}, "cold": {"steps": {}}}])
    methods = _methods(
        art={"warm process": 1.0, "cold process": 2.0},
        lora_runtime={"warm process": 1 / runtime},
        lora_merge={"cold process": merge},
    )
    found = {"art": art, "lora-runtime": lora, "lora-merge": merged}
    ratios = ratios_of(found, methods)
    assert ratios[DECODE] == pytest.approx(decode)
    assert ratios[MIXED] == pytest.approx(mixed)
    assert ratios[MERGE] == pytest.approx(merge)
    assert ratios[RUNTIME] == pytest.approx(runtime)
    judged = {target.name: target for target in targets_of(ratios, methods)}
    assert judged[MERGE].met == (merge >= FASTER)
    for name, most in AT_MOST.items():
        assert judged[name].met == (ratios[name] <= most)


def test_what_was_not_measured_has_no_ratio_and_no_target() -> None:
    absent = MethodResult.not_measured("there is no GPU")
    assert ratios_of({"art": Found("art")}, {"art": absent}) == {}
    assert targets_of({}, {"art": absent}) == ()


def test_the_record_is_json_of_this_schema() -> None:
    result = BenchResult(
        "m", "onnxruntime", "fp32", 2, {}, 1,
        {"lora-refit": MethodResult.not_measured("no GPU")}, {}, {}, (),
    )  # fmt: skip
    record = json.loads(json.dumps(result.record()))
    assert (record["kind"], record["schema"]) == ("bench", SCHEMA)
    assert record["methods"]["lora-refit"] == {
        "status": "not measured", "reason": "no GPU", "steps": [], "to_first_token": {},
        "adapter_bytes": None, "resident_bytes_per_adapter": None, "time_to_first_token": None,
        "decode_tokens_per_second": None, "throughput": {}, "mixed": {}, "accuracy": {},
        "notes": [],
    }  # fmt: skip
