from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from art_export.serve.transcript import Transcript
from engines.chat import Chat

DEMO = Path("engines/models/demo")
CHAT = Chat.load(Path(__file__).parents[3] / DEMO, 256)


def _grow(text: str, stops: tuple[str, ...] = ()) -> tuple[Transcript, list[str]]:
    """Write `text` byte by byte, as a tokenizer of bytes would; the pieces that may be sent."""
    transcript = Transcript(lambda ids: bytes(ids).decode(errors="replace"), stops)
    pieces = []
    for byte in text.encode():
        if not transcript.stopped:
            transcript.add(byte)
            pieces.append(transcript.unsent())
    transcript.finish()
    return transcript, [*pieces, transcript.unsent(last=True)]


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 300), max_size=40))
def test_pieces_make_up_what_the_chat_decodes(ids: list[int]) -> None:
    transcript, pieces = Transcript(CHAT.decode), []
    for token in ids:
        transcript.add(token)
        pieces.append(transcript.unsent())
    transcript.finish()
    pieces.append(transcript.unsent(last=True))
    assert "".join(pieces) == transcript.text == CHAT.decode(ids)


@given(text=st.text("abé\u6f22", max_size=30), stops=st.lists(st.text("ab\u6f22", min_size=1)))
def test_an_answer_ends_before_its_first_stop(text: str, stops: list[str]) -> None:
    transcript, pieces = _grow(text, tuple(stops))
    ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
    assert transcript.stopped == bool(ends)
    assert "".join(pieces) == transcript.text
    assert text.startswith(transcript.text)
    assert not any(stop in transcript.text for stop in stops)
    if not ends:
        assert transcript.text == text


def test_what_may_begin_a_stop_is_held_back() -> None:
    transcript, pieces = _grow("one END", ("END.",))
    assert pieces[:7] == ["o", "n", "e", " ", "", "", ""]
    assert pieces[7] == "END"
    assert not transcript.stopped


@pytest.mark.parametrize("text", ["\u6f22\u5b57", "caf\u00e9"])
def test_half_a_character_is_held_back(text: str) -> None:
    _, pieces = _grow(text)
    assert "\ufffd" not in "".join(pieces)
