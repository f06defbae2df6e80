"""Every error that this project raises on purpose, and the exit code that each one means.

    ArtExportError              exit 1
    ├── CheckFailed             exit 1   the work was done and the answer is no
    └── UserError               exit 2   the work cannot be done with what was given
        ├── PictureError                 a PNG is unreadable, of the wrong form, or for another base
        ├── BundleError                  a bundle is missing, foreign, half-written or edited
        ├── ModelError                   a base model cannot be found, read or supported
        ├── PromptError                  a prompt is empty, too long or not text
        ├── OptionError                  an option or name has a value that is not known
        ├── DataError                    a training or evaluation file is malformed
        ├── MissingEngineError           an engine or its packages are not installed
        ├── ServerError                  a vLLM server is out of reach or does not do as asked
        └── OutputError                  a destination cannot be written
            ├── OutputExistsError        it exists already, and is not overwritten
            └── DiskFullError            the disk has no room for it

A `UserError` answers three questions, one line each: what was given, what was expected, and what to
do now. Anything else that escapes from this project is a bug in it, and is not caught.
"""

from __future__ import annotations

from typing import ClassVar


class ArtExportError(Exception):
    """Root of the tree; `exit_code` is the process's exit status when it ends a command."""

    exit_code: ClassVar[int] = 1


class CheckFailed(ArtExportError):  # noqa: N818 - a verdict, not a fault of the program
    """A check ran to its end and did not hold; the message says which and by how much."""


class UserError(ArtExportError):
    """Something given from outside cannot be used.

    Args:
        got: what was given, with the name of the file, option or value.
        expected: what would have been accepted.
        fix: what to do now, best as a command.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, got: str, expected: str, fix: str) -> None:
        # All three stay in `args`, so that the error survives pickling between processes.
        super().__init__(got, expected, fix)
        self.got = got
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        return f"got:      {self.got}\nexpected: {self.expected}\nfix:      {self.fix}"


class PictureError(UserError):
    """A picture is unreadable, of the wrong form or size, or was trained for another base."""


class BundleError(UserError):
    """A bundle is missing, foreign, half-written, newer than this program, or edited."""


class ModelError(UserError):
    """A base model cannot be found, cannot be read, or is of no supported family."""


class PromptError(UserError):
    """A prompt is empty, is not text, or does not fit the model's limit."""


class OptionError(UserError):
    """An option or a name has a value that is not known or not allowed."""


class DataError(UserError):
    """A training or evaluation file is missing, malformed or too small."""


class MissingEngineError(UserError):
    """An engine is known, but its packages or its device are not here."""


class ServerError(UserError):
    """A server cannot be reached, refuses, or does not do what was asked."""


class OutputError(UserError):
    """A destination cannot be written: no permission, a read-only disk, a file in the way."""


class OutputExistsError(OutputError):
    """The destination exists already, and nothing is ever overwritten unasked."""


class DiskFullError(OutputError):
    """There is no room on the disk; whatever had been begun was removed again."""
