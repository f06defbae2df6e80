"""A bundle called like a Hugging Face model, against Hugging Face's own model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

import art_export
from art_export.bundle import Bundle
from art_export.optimum_model import ArtModelForImageTextToText
from engines.errors import BundleError, OptionError, OutputExistsError, PictureError, PromptError
from engines.model import ModelSource
from engines.picture import load_picture, save_picture
from engines.reference import Reference

SIZE = 64
NEW = 12
QUESTION = "Wake me up at 07:30 on Monday."
OTHER = "Anna has 12 apples and buys 30 more. How many apples?"


@pytest.fixture(scope="module")
def reference(tiny_model_dir: Path) -> Reference:
    return Reference(ModelSource("tiny", tiny_model_dir))


@pytest.fixture(scope="module")
def bundle_dir(tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with two arts, of which "first" is in use."""
    folder = tmp_path_factory.mktemp("optimum")
    bundle = Path(shutil.copytree(tiny_bundle_dir, folder / "bundle"))
    with Bundle.load(bundle) as loaded:
        for seed, name in ((1, "second"), (0, "first")):
            save_picture(folder / f"{name}.png", _noise(seed), None)
            loaded.swap(folder / f"{name}.png", name=name)
    return bundle


@pytest.fixture(scope="module")
def model(bundle_dir: Path) -> Iterator[ArtModelForImageTextToText]:
    opened = ArtModelForImageTextToText.from_pretrained(bundle_dir)
    yield opened
    opened.close()


@pytest.fixture
def inputs(reference: Reference) -> dict[str, Any]:
    """A chat with a picture, as the model's processor makes it."""
    return reference.inputs([QUESTION], [_noise(0)])


def _noise(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _both(
    reference: Reference, model: ArtModelForImageTextToText, inputs: dict[str, Any], **options: Any
) -> tuple[list[list[int]], list[list[int]]]:
    """Sequences of Hugging Face's model and of the bundle, from the same random numbers."""
    found = []
    for each in (reference.model, model):
        torch.manual_seed(0)
        with torch.inference_mode():
            found.append(each.generate(**inputs, max_new_tokens=NEW, **options).tolist())
    return found[0], found[1]


def test_it_is_a_public_name_that_is_imported_late() -> None:
    assert art_export.ArtModelForImageTextToText is ArtModelForImageTextToText
    assert "ArtModelForImageTextToText" in dir(art_export)
    with pytest.raises(AttributeError, match="no_such_name"):
        art_export.no_such_name  # noqa: B018


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"do_sample": False, "use_cache": False},
        {"do_sample": False, "min_new_tokens": NEW, "repetition_penalty": 1.3},
        {"num_beams": 3, "do_sample": False},
        {"num_beams": 3, "do_sample": False, "num_return_sequences": 2, "min_new_tokens": NEW},
        {"do_sample": True, "temperature": 0.7},
        {"do_sample": True, "num_return_sequences": 4, "top_k": 20, "min_new_tokens": NEW},
        {"do_sample": True, "num_beams": 2},
    ],
    ids=str,
)
def test_every_way_to_generate(
    reference: Reference,
    model: ArtModelForImageTextToText,
    inputs: dict[str, Any],
    options: dict[str, Any],
) -> None:
    expected, found = _both(reference, model, inputs, **options)
    assert found == expected


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"return_dict_in_generate": True}])
def test_a_batch_with_padding_and_a_picture_per_row(
    reference: Reference, model: ArtModelForImageTextToText, options: dict[str, Any]
) -> None:
    prompts, pictures = [QUESTION, OTHER, QUESTION], [_noise(0), _noise(1), None]
    rows = [reference.inputs([p], [s]) for p, s in zip(prompts, pictures, strict=True)]
    inputs = _padded(reference, rows)
    found = model.generate(**inputs, max_new_tokens=NEW, min_new_tokens=NEW, **options)
    sequences = found["sequences"] if "return_dict_in_generate" in options else found
    options.pop("return_dict_in_generate", None)
    for row, sequence in zip(rows, sequences, strict=True):
        with torch.inference_mode():
            alone = reference.model.generate(
                **row, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, **options
            )
        assert sequence[-NEW:].tolist() == alone[0, -NEW:].tolist()


def _padded(reference: Reference, rows: list[dict[str, Any]]) -> dict[str, Any]:
    width = max(row["input_ids"].shape[1] for row in rows)
    pad = reference.tokenizer.pad_token_id

    def lengthened(name: str, value: int) -> torch.Tensor:
        missing = (width - row[name].shape[1] for row in rows)
        parts = zip(rows, missing, strict=True)
        return torch.cat([torch.nn.functional.pad(r[name], (n, 0), value=value) for r, n in parts])

    seen = [row for row in rows if "pixel_values" in row]
    return {
        "input_ids": lengthened("input_ids", pad),
        "attention_mask": lengthened("attention_mask", 0),
        **{
            name: torch.cat([row[name] for row in seen])
            for name in ("pixel_values", "image_grid_thw")
        },
    }


def test_forward_gives_the_logits_of_every_position(
    reference: Reference, model: ArtModelForImageTextToText, inputs: dict[str, Any]
) -> None:
    with torch.inference_mode():
        expected = reference.model(**inputs).logits
    torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-3, rtol=0)
    kept = model(**inputs, logits_to_keep=3).logits
    torch.testing.assert_close(kept, expected[:, -3:], atol=1e-3, rtol=0)


def test_an_art_stands_where_no_pixels_are_given(
    model: ArtModelForImageTextToText, inputs: dict[str, Any]
) -> None:
    """With its stored state, with its picture encoded again, and as pixels: the same answer."""
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    expected = model.generate(**inputs, max_new_tokens=NEW).tolist()
    assert model.generate(**text, max_new_tokens=NEW).tolist() == expected
    again = model(**text).logits[:, -1]
    stored = model(**text, logits_to_keep=1).logits[:, -1]
    torch.testing.assert_close(stored, again, atol=1e-4, rtol=0)
    pixels = model.generate(**text, pixels=_noise(0)[None], max_new_tokens=NEW).tolist()
    assert pixels == expected


def test_the_stored_state_saves_the_picture(
    model: ArtModelForImageTextToText, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pixels: np.ndarray) -> np.ndarray:
        raise AssertionError("the picture was encoded again")

    model.use_art("second")
    monkeypatch.setattr(model.bundle.runtime.engine, "vision", refuse)
    assert len(model.generate(input_ids=inputs["input_ids"], max_new_tokens=2)) == 1
    monkeypatch.undo()
    model.use_art(None)


def test_arts_can_be_chosen(
    reference: Reference, bundle_dir: Path, model: ArtModelForImageTextToText
) -> None:
    text = reference.inputs([QUESTION], [_noise(1)])
    picture = load_picture(bundle_dir / "arts" / "second" / "art.png", SIZE)
    with torch.inference_mode():
        expected = reference.model(**text).logits[:, -1]
    for art in ("second", bundle_dir / "arts" / "second" / "art.png", picture):
        model.use_art(art)
        found = model(input_ids=text["input_ids"], logits_to_keep=1).logits[:, -1]
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    model.use_art("none")
    with pytest.raises(PromptError, match="no pictures"):
        model(input_ids=text["input_ids"])
    with pytest.raises(PictureError):
        model.use_art("no-such-art.png")
    model.use_art(None)


def test_stopping_criteria_and_streamers(
    reference: Reference, model: ArtModelForImageTextToText, inputs: dict[str, Any]
) -> None:
    class AtLength(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
            return torch.full((len(ids),), ids.shape[1] >= inputs["input_ids"].shape[1] + 3)

    class Kept(BaseStreamer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def put(self, value: Any) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.tokens.append(-1)

    streams = [Kept(), Kept()]
    for each, streamer in zip((reference.model, model), streams, strict=True):
        each.generate(
            **inputs,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            streamer=streamer,
            stopping_criteria=[AtLength()],
        )
    assert streams[0].tokens == streams[1].tokens
    assert len(streams[1].tokens) == inputs["input_ids"].numel() + 3 + 1


def test_a_returned_cache_goes_on(
    reference: Reference, model: ArtModelForImageTextToText, inputs: dict[str, Any]
) -> None:
    """A second turn, with a picture of its own, prefills only what is new."""
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "return_dict_in_generate": True}
    first = model.generate(**inputs, **options)
    more = reference.inputs([OTHER], [_noise(1)])["input_ids"]
    ids = torch.cat([first.sequences, more], dim=1)
    pictures = {"pixels": np.stack([_noise(0), _noise(1)])}
    found = model.generate(
        input_ids=ids, past_key_values=first.past_key_values, **pictures, **options
    )
    whole = model.generate(input_ids=ids, **pictures, **options)
    assert found.sequences.tolist() == whole.sequences.tolist()
    assert found.past_key_values.get_seq_length() == ids.shape[1] + 3


def test_what_cannot_be_used_is_said(
    reference: Reference, model: ArtModelForImageTextToText, inputs: dict[str, Any]
) -> None:
    ids = inputs["input_ids"]
    other = reference.processed(_noise(0, 128))
    with pytest.raises(PictureError, match="64x64"):
        model.generate(
            **inputs | {name: other[name] for name in ("pixel_values", "image_grid_thw")}
        )
    with pytest.raises(PictureError, match="uint8"):
        model.generate(input_ids=ids, pixels=_noise(0, 128)[None])
    with pytest.raises(PromptError, match="2 pictures for 1"):
        model.generate(input_ids=ids, pixels=np.stack([_noise(0)] * 2))
    with pytest.raises(PromptError, match="placeholders"):
        model.generate(
            input_ids=ids[ids != reference.model.config.image_token_id][None, :-1].new_tensor(
                [[reference.model.config.image_token_id, 30, 31]]
            )
        )
    with pytest.raises(PromptError, match="padding_side"):
        model(
            input_ids=ids, attention_mask=torch.ones_like(ids).index_fill(1, torch.tensor([-1]), 0)
        )
    with pytest.raises(PromptError, match="at most 1024"):
        model.generate(**inputs, max_new_tokens=2000)
    with pytest.raises(ValueError, match="video_grid_thw"):
        model.generate(**inputs, video_grid_thw=ids)
    with pytest.raises(ValueError, match="stateful"):
        model.generate(**inputs, prompt_lookup_num_tokens=2)


def test_saving_copies_the_bundle(
    model: ArtModelForImageTextToText, inputs: dict[str, Any], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "copy")
    copy = ArtModelForImageTextToText.from_pretrained(str(tmp_path / "copy"), art="first")
    assert copy.generate(**inputs).tolist() == model.generate(**inputs).tolist()
    copy.close()
    with pytest.raises(OutputExistsError):
        model.save_pretrained(tmp_path / "copy")
    with pytest.raises(OptionError, match="repository_id"):
        model.push_to_hub()


def test_a_model_is_no_bundle_unless_it_is_exported(tiny_model_dir: Path) -> None:
    with pytest.raises(BundleError, match="not yet built"):
        ArtModelForImageTextToText.from_pretrained(tiny_model_dir)
    model = ArtModelForImageTextToText.from_pretrained(tiny_model_dir, export=True, size=SIZE)
    folder = model.bundle.folder.path
    assert (folder / "manifest.json").is_file()
    model.close()
    assert not folder.exists()
