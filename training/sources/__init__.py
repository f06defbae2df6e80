"""Formats of data files, by name; the first that knows a file's first line reads it."""

from training.sources.base import Format, Line, Reading
from training.sources.bfcl import BFCL
from training.sources.chats import CHATS
from training.sources.toolmind import TOOLMIND
from training.sources.word_problems import GSM8K, SVAMP

FORMATS: dict[str, Format] = {one.name: one for one in (GSM8K, SVAMP, BFCL, TOOLMIND, CHATS)}

__all__ = ["FORMATS", "Format", "Line", "Reading"]
