from __future__ import annotations

import copy
import json
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from art_export.report.page import ReportOptions, write_report
from engines.errors import OptionError, OutputExistsError, UserError
from tests.art_export.report.samples import (
    bench,
    evaluated,
    record,
    served,
    verified,
    write,
    write_run,
)
from tests.art_export.report.test_fields import JSON

EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{ 7 * 7 }}"
ALL = (
    "Pictures",
    "Training",
    "Parity with PyTorch, by stage",
    "Accuracy",
    "Putting an adapter into use",
    "Throughput",
    "Environment and hashes",
)
FETCHING = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}


class Reader(HTMLParser):
    """What a page holds: its tags with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == tag]

    def check(self) -> None:
        """Nothing runs, nothing is fetched, and every picture and chart is described."""
        assert not self.of("script")
        for _, attributes in self.tags:
            assert not [name for name in attributes if name.startswith("on")]
            for name in FETCHING & set(attributes):
                assert (attributes[name] or "").startswith(("data:image/", "#"))
        assert all(image["alt"] for image in self.of("img"))
        drawn = [svg for svg in self.of("svg") if svg.get("aria-hidden") != "true"]
        assert all(svg["role"] == "img" and svg["aria-label"] for svg in drawn)
        policy = [meta["content"] for meta in self.of("meta") if "http-equiv" in meta]
        assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def options(folder: Path, **changed: Any) -> ReportOptions:
    """One of every input, valid."""
    given: dict[str, Any] = {
        "out": folder / "out.html",
        "train": (write_run(folder / "run"),),
        "verify": (
            write(folder / "v.json", verified()),
            write(folder / "served.json", served()),
        ),
        "bench": (write(folder / "b.json", bench()),),
        "evals": (
            write(folder / "e.json", evaluated()),
            write(folder / "none.json", evaluated(None, 0)),
        ),
    }
    return ReportOptions(**(given | changed))


def test_all_sections_of_all_inputs(tmp_path: Path) -> None:
    result = write_report(options(tmp_path))
    assert result.sections == ALL
    assert result.bytes == result.out.stat().st_size
    page = Reader(result.out)
    page.check()
    assert len(page.of("img")) == 4
    # Two of training, two of parity, one of accuracy, one of deployment, two of throughput.
    assert len([svg for svg in page.of("svg") if svg.get("role") == "img"]) == 8
    for text in ("0.980", "4 of 4", "60 ms", "no GPU here", "not met", "495 of 500", "701 tok"):
        assert text in page.text


@pytest.mark.parametrize(
    ("kept", "sections"),
    [
        ("train", ("Pictures", "Training")),
        ("verify", ("Parity with PyTorch, by stage",)),
        ("bench", ("Accuracy", "Putting an adapter into use", "Throughput")),
        ("evals", ("Accuracy",)),
    ],
)
def test_absent_inputs_leave_their_sections_out(
    tmp_path: Path, kept: str, sections: tuple[str, ...]
) -> None:
    blank = dict.fromkeys({"train", "verify", "bench", "evals"} - {kept}, ())
    result = write_report(options(tmp_path, **blank))
    assert result.sections == (*sections, "Environment and hashes")
    Reader(result.out).check()


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = tuple(write_run(tmp_path / name / "run") for name in ("tools", "math"))
    page = Reader(write_report(options(tmp_path, train=runs)).out)
    assert "tools/run: tools" in page.text
    assert "math/run: tools" in page.text
    page = Reader(write_report(options(tmp_path / "again", train=(runs[0],) * 2)).out)
    assert "tools/run 1: tools" in page.text
    assert "tools/run 2: tools" in page.text


def test_the_same_inputs_give_the_same_page(tmp_path: Path) -> None:
    asked = options(tmp_path)
    first = write_report(asked).out.read_bytes()
    again = write_report(ReportOptions(**(vars(asked) | {"out": tmp_path / "again.html"})))
    assert again.out.read_bytes() == first


def test_a_failed_check_is_named(tmp_path: Path) -> None:
    failed = (write(tmp_path / "failed.json", verified(passed=False)),)
    page = Reader(write_report(options(tmp_path, verify=failed)).out)
    assert "1 of 4 checks failed: prefill logits" in page.text
    assert "FAILED" in page.text


def test_nothing_given_and_a_page_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--train run"):
        write_report(ReportOptions(tmp_path / "out.html"))
    asked = options(tmp_path)
    asked.out.write_text("mine")
    with pytest.raises(OutputExistsError, match="--replace"):
        write_report(asked)
    assert asked.out.read_text() == "mine"
    write_report(ReportOptions(**(vars(asked) | {"replace": True})))
    assert "mine" not in asked.out.read_text()[:100]


def test_a_malformed_input_leaves_the_old_page(tmp_path: Path) -> None:
    asked = options(tmp_path, replace=True)
    asked.out.write_text("old")
    asked.bench[0].write_text("{")
    with pytest.raises(UserError, match=r"b\.json"):
        write_report(asked)
    assert asked.out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir() if "partial" in path.name) == []


def test_hostile_texts_are_shown_and_never_run(tmp_path: Path) -> None:
    hostile = json.loads(json.dumps([record(), bench(), verified(), evaluated()]))
    documents = [_poisoned(document) for document in hostile]
    documents[1] |= {"kind": "bench"}
    for name, method in zip(("art", EVIL, "other"), documents[1]["methods"].values(), strict=True):
        method["status"] = "measured" if name == "art" else "not measured"
    run = write_run(tmp_path / "run<script>alert(1)<", documents[0])
    asked = ReportOptions(
        out=tmp_path / "out.html",
        train=(run,),
        verify=(write(tmp_path / "v.json", documents[2]),),
        bench=(write(tmp_path / "b.json", documents[1]),),
        evals=(write(tmp_path / "e.json", documents[3]),),
        title=EVIL,
    )
    page = Reader(write_report(asked).out)
    page.check()
    assert EVIL in page.text


def _poisoned(value: Any) -> Any:
    """Every text of a document replaced, names of methods and tasks too."""
    if isinstance(value, dict):
        fixed = {"methods", "accuracy", "controls", "environment", "versions", "ratios"}
        return {
            name: {f"{EVIL}{n}": _poisoned(v) for n, v in enumerate(inner.values())}
            if name in fixed and isinstance(inner, dict) and name != "versions"
            else _poisoned(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_poisoned(item) for item in value]
    return EVIL if isinstance(value, str) else value


SAMPLES = {"b.json": bench(), "v.json": verified(), "e.json": evaluated(), "run.json": record()}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> ReportOptions:
    return options(tmp_path_factory.mktemp("inputs"), replace=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(SAMPLES)), data=st.data())
def test_any_json_gives_a_page_or_one_error(
    inputs: ReportOptions, name: str, data: st.DataObject
) -> None:
    folder = inputs.out.parent
    document = copy.deepcopy(SAMPLES[name])
    *way, last = data.draw(st.sampled_from(_places(document)))
    inner: Any = document
    for step in way:
        inner = inner[step]
    inner[last] = data.draw(JSON)
    where = folder / "run" / name if name == "run.json" else folder / name
    where.write_text(json.dumps(document))
    try:
        with suppress(UserError):
            Reader(write_report(inputs).out).check()
    finally:
        write(where, SAMPLES[name])


def _places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for step, inner in items:
        found.append((*before, step))
        if isinstance(inner, (dict, list)):
            found += _places(inner, (*before, step))
    return found
