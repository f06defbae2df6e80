from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import DataError, OptionError
from training.data import FileSource, data_hash, find_source, load_files, normalised
from training.tasks import SPLITS, Example


def write(path: Path, *lines: object) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def pair(prompt: object, answer: object) -> dict[str, object]:
    return {"prompt": prompt, "answer": answer}


def chat(*turns: tuple[str, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def everything(task: FileSource) -> list[Example]:
    return [example for split in SPLITS for example in task.examples(split, 10**6)]


def test_both_forms_are_read_and_mean_the_same(tmp_path: Path) -> None:
    pairs = write(tmp_path / "a.jsonl", pair("q1", "a1"), "", pair("q2", "ä2"))
    chats = write(
        tmp_path / "b.jsonl",
        chat(("user", "q2"), ("assistant", "ä2")),
        chat(("user", "q1"), ("assistant", "a1")),
    )
    first, second = load_files(pairs), load_files(chats)
    assert data_hash(everything(first)) == data_hash(everything(second))
    assert {(e.prompt, e.answer) for e in everything(first)} == {("q1", "a1"), ("q2", "ä2")}


def test_windows_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = "\r\n".join(json.dumps(pair(f"q{i}", "a")) for i in range(3)) + "\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert len(everything(load_files(path))) == 3


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
        (chat(("user", "q"), ("system", "s"), ("assistant", "a")), "not the first"),
        (chat(("assistant", "q"), ("assistant", "a")), "begin with the user"),
        (chat(("user", "q"), ("narrator", "s"), ("assistant", "a")), "the role 'narrator'"),
        (chat(("user", "q"), ("assistant", "")), "an empty message of the assistant"),
        (chat(("user", [{"type": "text"}]), ("assistant", "a")), "whose content is not text"),
        (chat(("user", 3), ("assistant", "a")), "whose content is not text"),
        ({"messages": [{"role": "user"}, {"role": "assistant"}]}, "an empty message of the user"),
        (chat(("user", "q"), ("assistant", "a")) | {"tools": {}}, "tools that are not a list"),
        (chat(("user", "q"), ("assistant", "a")) | {"tools": [{}]}, "a tool without a name"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path / "a.jsonl", pair("q", "a"), line)
    with pytest.raises(DataError, match=message) as caught:
        load_files(path)
    assert "line 2 of a.jsonl" in str(caught.value)


def test_files_without_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without any example"):
        load_files(write(tmp_path / "a.jsonl", "", "  "))
    with pytest.raises(DataError, match="1 distinct prompt"):
        load_files(write(tmp_path / "b.jsonl", pair("q", "a"), pair("q", "b")))
    with pytest.raises(DataError, match="not there"):
        load_files(tmp_path / "c.jsonl")
    with pytest.raises(DataError, match="a folder"):
        load_files(tmp_path)
    (tmp_path / "d.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(DataError, match="byte 12 is not UTF-8"):
        load_files(tmp_path / "d.jsonl")


@given(st.sets(st.text(min_size=1).filter(lambda t: t.strip() != ""), min_size=2, max_size=30))
@settings(max_examples=40)
def test_splits_share_nothing_and_depend_on_content_alone(
    tmp_path_factory: pytest.TempPathFactory, prompts: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("data")
    lines = [pair(prompt, answer) for prompt in prompts for answer in ("a", "b")]
    task = load_files(write(folder / "a.jsonl", *lines))
    contents = [{e.content for e in task.examples(split, 10**6)} for split in SPLITS]
    assert sum(len(part) for part in contents) == len(set.union(*contents))
    assert contents[0]
    assert contents[1]
    assert contents[2] or len(contents[0] | contents[1]) == 2
    random.Random(0).shuffle(lines)
    again = load_files(write(folder / "b.jsonl", *lines))
    for split in SPLITS:
        assert task.examples(split, 10**6) == again.examples(split, 10**6) or len(prompts) < len(
            lines
        )
        assert data_hash(task.examples(split, 10**6)) == data_hash(again.examples(split, 10**6))


def test_big_files_are_split_by_the_rule_of_the_shipped_tasks(tmp_path: Path) -> None:
    task = load_files(write(tmp_path / "a.jsonl", *(pair(f"q{i}", "a") for i in range(2000))))
    sizes = [len(task.examples(split, 10**6)) for split in SPLITS]
    assert sum(sizes) == 2000
    assert 1500 < sizes[0] < 1700
    assert 100 < sizes[1] < 220
    assert task.examples("train", 5, seed=1) == task.examples("train", 5, seed=1)
    assert task.examples("train", 5, seed=1) != task.examples("train", 5, seed=2)


def test_jsonl_is_scored_by_the_stripped_text() -> None:
    assert FileSource.is_correct(" yes\n", "yes")
    assert not FileSource.is_correct("Yes", "yes")


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


def test_near_duplicates_fall_into_one_split(tmp_path: Path) -> None:
    lines = [pair(text, "a") for i in range(200) for text in (f"How many {i}?", f"how many  {i}")]
    task = load_files(write(tmp_path / "a.jsonl", *lines))
    for split in SPLITS:
        numbers = [example.prompt.rstrip("?").split()[-1] for example in task.examples(split, 999)]
        assert all(numbers.count(number) == 2 for number in numbers)


def test_an_official_test_file_is_the_test_split(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", *(pair(f"q {i}", "a") for i in range(100)))
    test = write(tmp_path / "test.jsonl", *(pair(f"Q{i}.", "a") for i in range(90, 110)))
    task = find_source(f"jsonl:{train},{test}")
    found = {split: {e.prompt for e in task.examples(split, 999)} for split in SPLITS}
    assert found["test"] == {f"Q{i}." for i in range(90, 110)}
    assert found["train"] | found["validation"] == {f"q {i}" for i in range(90)}
    assert found["validation"]
    with pytest.raises(DataError, match="not there"):
        find_source(f"jsonl:{train},{tmp_path / 'none.jsonl'}")
    with pytest.raises(DataError, match="with 0 distinct prompts"):
        find_source(f"jsonl:{train},{train}")


@given(words=st.lists(st.from_regex(r"[a-z0-9]+", fullmatch=True), min_size=1, max_size=5))
def test_case_spaces_and_marks_make_no_other_content(words: list[str]) -> None:
    plain = normalised("jsonl/" + " ".join(words))
    for other in ("  ".join(words).upper(), "\n".join(words), ", ".join(words).title() + "!"):
        assert normalised(f"jsonl/{other}") == plain
    assert normalised("jsonl/?!") != normalised("jsonl/!?")


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        find_source(str(path))


def test_a_broken_parquet_file_is_told(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        find_source(str(path))
