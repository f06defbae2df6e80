"""One file of weights for several IRs, each constant's bytes only once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

ALIGNMENT = 4096
"""Bytes: a page, so that a constant can be mapped into memory."""


def share_weights(source: Path, target: Path, name: str) -> None:
    """Write every IR in `source` to `target`, all of them with `target / name` for weights."""
    places: dict[str, int] = {}
    with (target / name).open("wb") as shared:
        for path in sorted(source.glob("*.xml")):
            tree = ElementTree.parse(path)
            with path.with_suffix(".bin").open("rb") as own:
                for data in tree.iterfind(".//layer[@type='Const']/data"):
                    own.seek(int(data.attrib["offset"]))
                    content = own.read(int(data.attrib["size"]))
                    data.set("offset", str(_place(shared, content, places)))
            tree.write(target / path.name, encoding="utf-8", xml_declaration=True)


def _place(file: BinaryIO, content: bytes, places: dict[str, int]) -> int:
    key = hashlib.sha256(content).hexdigest()
    if key not in places:
        # Small constants lie close together: a page each would be most of a small model.
        step = ALIGNMENT if len(content) >= ALIGNMENT else 64
        file.write(bytes(-file.tell() % step))
        places[key] = file.tell()
        file.write(content)
    return places[key]
