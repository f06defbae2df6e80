from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import DataError, OptionError
from training.data import JsonlTask, data_hash, find_source, load_jsonl
from training.tasks import SPLITS, Example


def write(path: Path, *lines: object) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def pair(prompt: object, answer: object) -> dict[str, object]:
    return {"prompt": prompt, "answer": answer}


def chat(*turns: tuple[str, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def everything(task: JsonlTask) -> list[Example]:
    return [example for split in SPLITS for example in task.examples(split, 10**6)]


def test_both_forms_are_read_and_mean_the_same(tmp_path: Path) -> None:
    pairs = write(tmp_path / "a.jsonl", pair("q1", "a1"), "", pair("q2", "ä2"))
    chats = write(
        tmp_path / "b.jsonl",
        chat(("user", "q2"), ("assistant", "ä2")),
        chat(("user", "q1"), ("assistant", "a1")),
    )
    first, second = load_jsonl(pairs), load_jsonl(chats)
    assert data_hash(everything(first)) == data_hash(everything(second))
    assert {(e.prompt, e.answer) for e in everything(first)} == {("q1", "a1"), ("q2", "ä2")}


def test_windows_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = "\r\n".join(json.dumps(pair(f"q{i}", "a")) for i in range(3)) + "\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert len(everything(load_jsonl(path))) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 of a.jsonl: not JSON"),
        ("[" * 100_000, "line 2 of a.jsonl: not JSON"),
        ("[1]", "line 2 of a.jsonl: list instead of an object"),
        ("{}", "no key 'prompt'"),
        ({"prompt": "q"}, "no key 'answer'"),
        ({"question": "q", "answer": "a"}, r"no key 'prompt' \(keys: question, answer\)"),
        (pair("", "a"), "the prompt is empty"),
        (pair("q", " \n"), "the answer is empty"),
        (pair("q", 3), "the answer is int, not text"),
        (pair(None, "a"), "the prompt is NoneType, not text"),
        ({"prompt": "q", "chosen": "a"}, "no key 'rejected'"),
        ({"prompt": "q", "rejected": "a"}, "no key 'chosen'"),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "the rejected answer is empty"),
        ({"messages": "hello"}, "'messages' is not a list"),
        ({"messages": []}, r"roles \[\]"),
        (chat(("assistant", "a"), ("user", "q")), "roles"),
        (chat(("system", "s"), ("user", "q"), ("assistant", "a")), "roles"),
        (chat(("user", "q"), ("assistant", "")), "the answer is empty"),
        (chat(("user", [{"type": "text"}]), ("assistant", "a")), "the prompt is list"),
        ({"messages": [{"role": "user"}, {"role": "assistant"}]}, "no 'content'"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path / "a.jsonl", pair("q", "a"), line)
    with pytest.raises(DataError, match=message) as caught:
        load_jsonl(path)
    assert "line 2 of a.jsonl" in str(caught.value)


def test_files_without_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without any example"):
        load_jsonl(write(tmp_path / "a.jsonl", "", "  "))
    with pytest.raises(DataError, match="1 distinct prompt"):
        load_jsonl(write(tmp_path / "b.jsonl", pair("q", "a"), pair("q", "b")))
    with pytest.raises(DataError, match="not there"):
        load_jsonl(tmp_path / "c.jsonl")
    with pytest.raises(DataError, match="a folder"):
        load_jsonl(tmp_path)
    (tmp_path / "d.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(DataError, match="byte 12 is not UTF-8"):
        load_jsonl(tmp_path / "d.jsonl")


@given(st.sets(st.text(min_size=1).filter(lambda t: t.strip() != ""), min_size=2, max_size=30))
@settings(max_examples=40)
def test_splits_share_nothing_and_depend_on_content_alone(
    tmp_path_factory: pytest.TempPathFactory, prompts: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("data")
    lines = [pair(prompt, answer) for prompt in prompts for answer in ("a", "b")]
    task = load_jsonl(write(folder / "a.jsonl", *lines))
    contents = [{e.content for e in task.examples(split, 10**6)} for split in SPLITS]
    assert sum(len(part) for part in contents) == len(set.union(*contents))
    assert contents[0]
    assert contents[1]
    assert contents[2] or len(contents[0] | contents[1]) == 2
    random.Random(0).shuffle(lines)
    again = load_jsonl(write(folder / "b.jsonl", *lines))
    for split in SPLITS:
        assert task.examples(split, 10**6) == again.examples(split, 10**6) or len(prompts) < len(
            lines
        )
        assert data_hash(task.examples(split, 10**6)) == data_hash(again.examples(split, 10**6))


def test_big_files_are_split_by_the_rule_of_the_shipped_tasks(tmp_path: Path) -> None:
    task = load_jsonl(write(tmp_path / "a.jsonl", *(pair(f"q{i}", "a") for i in range(2000))))
    sizes = [len(task.examples(split, 10**6)) for split in SPLITS]
    assert sum(sizes) == 2000
    assert 1500 < sizes[0] < 1700
    assert 100 < sizes[1] < 220
    assert task.examples("train", 5, seed=1) == task.examples("train", 5, seed=1)
    assert task.examples("train", 5, seed=1) != task.examples("train", 5, seed=2)


def test_jsonl_is_scored_by_the_stripped_text() -> None:
    assert JsonlTask.is_correct(" yes\n", "yes")
    assert not JsonlTask.is_correct("Yes", "yes")


def test_sources_are_found_by_name_or_path(tmp_path: Path) -> None:
    assert find_source("tools").name == "tools"
    path = write(tmp_path / "a.jsonl", pair("q1", "a"), pair("q2", "a"))
    assert find_source(str(path)).name == "a.jsonl"
    with pytest.raises(OptionError, match="did you mean 'tools'"):
        find_source("tool")
    with pytest.raises(DataError, match="not there"):
        find_source("missing.jsonl")


def test_the_hash_ignores_order_and_sees_every_field() -> None:
    a, b = Example("p", "a", "c"), Example("q", "b", "d")
    assert data_hash([a, b]) == data_hash([b, a])
    assert data_hash([a, b]) != data_hash([a, Example("q", "c", "d")])
