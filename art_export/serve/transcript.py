"""An answer as it grows: which of its text may be sent already."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"
"""What a tokenizer writes for the bytes of a character that is not whole yet."""
_CONTEXT = 8
"""Tokens decoded again before a new one: what a token stands for may depend on those before."""


class Transcript:
    """Token ids become text piece by piece, cut before the first stop sequence.

    Text is held back while it may be the beginning of a stop sequence, or of a character.

    Args:
        decode: token ids -> text.
        stops: sequences that end the answer and are left out of it.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self.token_ids: list[int] = []
        self.stopped = False
        self._text = ""
        self._sent = self._read = 0

    def add(self, token: int) -> None:
        """Append a token; `stopped` says whether a stop sequence has been completed."""
        self.token_ids.append(token)
        start = max(0, self._read - _CONTEXT)
        before = self._decode(self.token_ids[start : self._read])
        after = self._decode(self.token_ids[start:])
        if after.endswith(_INCOMPLETE) or not after.startswith(before):
            return
        self._read = len(self.token_ids)
        self._take(after[len(before) :])

    def finish(self) -> None:
        """No token follows: what is incomplete stays as it is."""
        whole = self._decode(self.token_ids)
        if not self.stopped and whole.startswith(self._text):
            self._take(whole[len(self._text) :])

    @property
    def text(self) -> str:
        return self._text

    def unsent(self, *, last: bool = False) -> str:
        """Text that was not handed out before; all that is left, if it is the `last` time."""
        end = len(self._text) if last or self.stopped else len(self._text) - self._held()
        piece = self._text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece

    def _take(self, piece: str) -> None:
        longest = max(map(len, self._stops), default=0)
        # A stop sequence may have begun in the text before.
        start = max(0, len(self._text) - longest)
        self._text += piece
        found = [at for stop in self._stops if (at := self._text.find(stop, start)) >= 0]
        if found:
            self._text, self.stopped = self._text[: min(found)], True

    def _held(self) -> int:
        """Characters at the end that may begin a stop sequence."""
        longest = max(map(len, self._stops), default=0)
        for size in range(min(longest, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-size:]) for stop in self._stops):
                return size
        return 0
