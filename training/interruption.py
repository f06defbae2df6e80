"""Ctrl-C and SIGTERM: finish the step, then stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import ClassVar

from engines.errors import ArtExportError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(ArtExportError):  # noqa: N818 - asked for from outside, no fault
    """The run was stopped from outside and can be resumed; the message says how."""

    exit_code: ClassVar[int] = 130


class Interruption:
    """While entered, the first signal only sets `requested`; a second one stops at once.

    Python lets the main thread alone handle signals: in any other this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
