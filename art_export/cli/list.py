"""`art-export list`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from art_export.cli.options import bundle_argument, example, json_option
from art_export.cli.output import percent, print_json, table

if TYPE_CHECKING:
    from engines.bundle import ArtRecord

HEADER = ("", "art", "task", "score", "prefix", "created", "picture")
SHORT = 12


@click.command(epilog=example("art-export list bundle"))
@bundle_argument
@json_option
def command(bundle: Path, as_json: bool) -> None:
    """List the pictures stored in BUNDLE; the one in use has a star."""
    from engines.bundle import BundleFolder

    folder = BundleFolder.open(bundle)
    active = folder.active()
    arts = [folder.read_art(name) for name in folder.art_names()]
    if as_json:
        described = [art_facts(art) | {"active": art.name == active} for art in arts]
        print_json({"bundle": folder.path, "active": active, "arts": described})
    elif arts:
        click.echo(table(HEADER, [_row(art, art.name == active) for art in arts]))
        if active is None:
            click.echo("no picture is in use")
    else:
        click.echo(f"no pictures yet; add one with: art-export swap {bundle} ART.png")


def art_facts(art: ArtRecord) -> dict[str, object]:
    """One stored picture as JSON has it."""
    return {
        "name": art.name,
        "picture_sha256": art.picture.sha256,
        "prefix_bytes": art.prefix_path.stat().st_size,
        "created": art.created,
        "provenance": art.picture.provenance,
        "notes": art.picture.notes,
        "info": art.info,
    }


def _row(art: ArtRecord, active: bool) -> tuple[str, ...]:
    from engines.files import size_text

    provenance = art.picture.provenance
    score = provenance.score if provenance is not None else None
    return (
        "*" if active else "",
        art.name,
        provenance.task if provenance is not None else "?",
        percent(score) if score is not None else "",
        size_text(art.prefix_path.stat().st_size),
        art.created,
        art.picture.sha256[:SHORT],
    )
