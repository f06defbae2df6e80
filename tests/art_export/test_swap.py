"""Swapping: exact, proven, atomic."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from art_export.bundle import Bundle
from engines.bundle import BundleFolder
from engines.errors import BundleError, CheckFailed, OptionError, PictureError
from engines.picture import Picture, save_picture
from engines.provenance import Provenance

SIZE = 64


def _picture(seed: int, provenance: Provenance | None = None) -> Picture:
    rng = np.random.default_rng(seed)
    return Picture(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8), provenance)


@pytest.fixture
def path(tiny_bundle_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle_dir, tmp_path / "bundle"))


@pytest.fixture
def bundle(path: Path) -> Iterator[Bundle]:
    with Bundle.load(path) as loaded:
        yield loaded


def _logits(bundle: Bundle, art: str | None) -> np.ndarray:
    prefix = bundle.prefix(art)
    tail = bundle.runtime.tail("How many apples?", prefix)
    return bundle.runtime.tail_logits(tail, prefix)


def test_a_b_a_is_exact(bundle: Bundle) -> None:
    a, b = _picture(1), _picture(2)
    bundle.swap(a, "one")
    first = _logits(bundle, "one")
    bundle.swap(b, "one")
    other = _logits(bundle, "one")
    bundle.swap(a, "one")
    assert np.array_equal(_logits(bundle, "one"), first)
    assert not np.array_equal(other, first)


def test_a_fresh_process_sees_the_same_bits(bundle: Bundle, path: Path) -> None:
    bundle.swap(_picture(1), "one")
    with Bundle.load(path) as again:
        assert again.folder.active() == "one"
        assert np.array_equal(_logits(again, "one"), _logits(bundle, "one"))


def test_what_a_swap_reports(bundle: Bundle) -> None:
    before = bundle.folder.check_files()
    first = bundle.swap(_picture(1), "one")
    second = bundle.swap(_picture(2), "two")
    assert bundle.folder.check_files() == before
    assert first.previous is None
    assert second.previous == "one"
    assert first.files_unchanged == len(before)
    assert set(first.seconds) == {
        "check", "vision", "prefill", "compare", "store", "activate", "total",
    }  # fmt: skip
    assert second.change.max_logit_difference > 0
    assert 0 < second.change.total_variation <= 1
    assert any("does not say which model" in warning for warning in first.warnings)
    assert first.prefix_tokens == len(bundle.runtime.chat.prefix_ids())


def test_an_art_copied_to_a_replica_gives_the_same_bits_there(
    bundle: Bundle, path: Path, tmp_path: Path
) -> None:
    replica = Path(shutil.copytree(path, tmp_path / "replica"))
    bundle.swap(_picture(1), "one")
    shutil.copytree(path / "arts/one", replica / "arts/one")
    with Bundle.load(replica) as other:
        assert np.array_equal(_logits(other, "one"), _logits(bundle, "one"))


def test_the_same_picture_changes_nothing_to_the_bit(bundle: Bundle) -> None:
    bundle.swap(_picture(1), "one")
    result = bundle.swap(_picture(1), "two")
    assert result.change.same_picture
    assert result.change.max_logit_difference == 0


def test_a_state_that_another_device_stored_is_replaced(
    bundle: Bundle, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantised products round otherwise on a GPU: the same picture then has other logits."""
    bundle.swap(_picture(1), "one")
    expected, features = _logits(bundle, "one"), bundle.runtime.engine.vision
    with Bundle.load(path) as other, monkeypatch.context() as patch:
        patch.setattr(other.runtime.engine, "vision", lambda pixels: 1.05 * features(pixels))
        found = other.swap(_picture(1), "one")
        assert any("computed otherwise" in warning for warning in found.warnings)
        assert not np.array_equal(_logits(other, "one"), expected)
    with Bundle.load(path) as again:
        assert again.swap(_picture(1), "one").change.same_picture
        assert np.array_equal(_logits(again, "one"), expected)


@pytest.mark.parametrize(("part", "told"), [("art.json", "version"), ("prefix.safetensors", "")])
def test_a_swap_cures_what_is_in_use(bundle: Bundle, path: Path, part: str, told: str) -> None:
    """A bundle that an earlier version swapped a picture into, or whose files were damaged."""
    bundle.swap(_picture(1), "one")
    expected, file = _logits(bundle, "one"), path / "arts/one" / part
    old = file.read_bytes()
    file.write_bytes(old.replace(b'"schema": 2', b'"schema": 1') if told else old[:100])
    with Bundle.load(path) as fresh:
        with pytest.raises(BundleError, match="swap the picture in again"):
            fresh.prefix("one")
        found = fresh.swap(_picture(1), "one")
        assert np.array_equal(_logits(fresh, "one"), expected)
    assert found.change.against is None
    assert any("compared with no picture" in each and told in each for each in found.warnings)


def test_a_picture_that_does_not_reach_the_model(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.swap(_picture(1), "one")
    features = bundle.runtime.engine.vision(_picture(1).pixels[None])
    monkeypatch.setattr(bundle.runtime.engine, "vision", lambda _: features)
    with pytest.raises(CheckFailed, match="changed no logit"):
        bundle.swap(_picture(2), "two")
    assert bundle.folder.active() == "one"
    assert bundle.folder.art_names() == ["one"]


def test_a_picture_of_another_base(bundle: Bundle) -> None:
    record = Provenance("other", "f" * 64, SIZE, "sft", "tools", "0" * 64, 0, 1, 1.0, "0.1.0")
    with pytest.raises(PictureError, match="trained for other"):
        bundle.swap(_picture(1, record), "one")
    own = replace(record, base_hash=bundle.folder.manifest.weights_sha256)
    assert bundle.swap(_picture(1, own), "one").warnings == ()


def test_a_picture_of_another_size(bundle: Bundle, tmp_path: Path) -> None:
    small = np.zeros((32, 32, 3), np.uint8)
    save_picture(tmp_path / "small.png", small, None)
    for art in (Picture(small), tmp_path / "small.png"):
        with pytest.raises(PictureError, match="64x64"):
            bundle.swap(art, "one")
    assert bundle.folder.art_names() == []


def test_an_edited_graph_file_is_named(bundle: Bundle, path: Path) -> None:
    bundle.swap(_picture(1), "one")
    graph = path / "onnx/vision_encoder.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(BundleError, match=r"onnx/vision_encoder\.onnx"):
        bundle.swap(_picture(2), "two")
    assert bundle.folder.active() == "one"


def test_unchanged_files_are_not_read_again(
    bundle: Bundle, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.swap(_picture(1), "one")
    calls: list[int] = []
    monkeypatch.setattr(BundleFolder, "check_files", lambda self: calls.append(1))
    bundle.swap(_picture(2), "one")
    assert calls == []
    os.utime(path / "onnx/embed_tokens.onnx")
    bundle.swap(_picture(3), "one")
    assert calls != []


def test_a_name_that_is_not_allowed(bundle: Bundle) -> None:
    for name in ("none", "../x", "a b", ""):
        with pytest.raises(OptionError):
            bundle.swap(_picture(1), name or "/")


def test_a_swap_by_another_process_is_seen(bundle: Bundle, path: Path) -> None:
    bundle.swap(_picture(1), "one")
    before = _logits(bundle, "one")
    with Bundle.load(path) as other:
        other.swap(_picture(2), "one")
    assert not np.array_equal(_logits(bundle, "one"), before)


def test_generate_mixes_pictures_in_a_batch(bundle: Bundle) -> None:
    bundle.swap(_picture(1), "one")
    bundle.swap(_picture(2), "two")
    names = ["one", "two", None, "one"]
    prompts = ["Call", "Call", "Call", "Wake me up on Monday"]
    together = bundle.generate(prompts, names, 8)
    for row, name in enumerate(names):
        assert bundle.generate([prompts[row]], name, 8) == [together[row]]
    assert bundle.generate(["Call"], max_new_tokens=8) == [together[1]]
    with pytest.raises(OptionError, match="did you mean 'two'"):
        bundle.generate(["Call"], "twoo", 8)


def test_what_one_process_has_hashed_the_next_need_not(
    bundle: Bundle, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("art_export.swap.RACY", 0)
    bundle.swap(_picture(1), "one")
    calls: list[int] = []
    monkeypatch.setattr(BundleFolder, "check_files", lambda self: calls.append(1))
    with Bundle.load(path) as again:
        again.swap(_picture(2), "two")
        assert calls == []
    os.utime(path / "onnx/embed_tokens.onnx")
    with Bundle.load(path) as again:
        again.swap(_picture(3), "three")
    assert calls != []


def test_files_as_young_as_their_hash_are_not_vouched_for(bundle: Bundle, path: Path) -> None:
    os.utime(path / "onnx/embed_tokens.onnx")
    bundle.swap(_picture(1), "one")
    assert not (path / "checked.json").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"graph_sha256": "0"}', '{"files": 1}'])
def test_a_record_of_hashes_that_says_nothing(
    bundle: Bundle, path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path / "checked.json").write_text(content)
    calls: list[int] = []
    monkeypatch.setattr(BundleFolder, "check_files", lambda self: calls.append(1))
    with Bundle.load(path) as again:
        again.swap(_picture(1), "one")
    assert calls == [1]


def test_states_that_nobody_uses_are_let_go(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("art_export.bundle.HELD_BYTES", 1)
    bundle.swap(_picture(1), "one")
    bundle.swap(_picture(2), "two")
    logits = {name: _logits(bundle, name) for name in ("one", "two")}
    first = bundle.prefix("one")
    assert bundle.prefix("one") is first
    assert not first.arrays[0].flags.writeable
    bundle.prefix("two")
    assert bundle.prefix("one") is not first
    for name, expected in logits.items():
        assert np.array_equal(_logits(bundle, name), expected)


def test_a_state_edited_after_it_was_let_go_is_refused(
    bundle: Bundle, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("art_export.bundle.HELD_BYTES", 1)
    for seed, name in enumerate(("one", "two")):
        bundle.swap(_picture(seed), name)
        bundle.prefix(name)
    where = path / "arts/one/prefix.safetensors"
    data = bytearray(where.read_bytes())
    data[-1] ^= 1
    where.write_bytes(data)
    with pytest.raises(BundleError, match="changed after it was computed"):
        bundle.prefix("one")
