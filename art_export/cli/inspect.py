"""`art-export inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from art_export.cli.list import art_facts
from art_export.cli.options import FilePath, example, json_option
from art_export.cli.output import facts, print_json, table
from art_export.cli.progress import StageDisplay

if TYPE_CHECKING:
    from engines.bundle import BundleFolder
    from engines.picture import Picture

SHORT = 12


@click.command(epilog=example("art-export inspect bundle", "art-export inspect run/art.png"))
@click.argument("target", metavar="BUNDLE|ART.png", type=FilePath)
@json_option
def command(target: Path, as_json: bool) -> None:
    """Show what a bundle or a picture says about itself, and whether that is true.

    A bundle's files are hashed again and compared with its manifest, its pictures and their prefix
    states with their records; anything that does not fit is an error.
    """
    # What is no PNG by name may still be one; what is a folder cannot be.
    if target.is_dir() or not (target.exists() or target.suffix):
        _inspect_bundle(target, as_json)
    else:
        _inspect_picture(target, as_json)


def _inspect_bundle(path: Path, as_json: bool) -> None:
    from engines.bundle import BundleFolder

    folder = BundleFolder.open(path)
    with StageDisplay(as_json=as_json) as progress:
        folder.check_files(progress)
    arts = [folder.read_art(name) for name in folder.art_names()]
    if as_json:
        described = [art_facts(art) for art in arts]
        print_json(
            {
                "bundle": path,
                "manifest": folder.manifest,
                "graph_sha256": folder.manifest.graph_sha256,
                "files_match": True,
                "active": folder.active(),
                "arts": described,
            }
        )
        return
    click.echo(_manifest_facts(folder))
    click.echo("\n" + _file_table(folder))
    names = ", ".join(art.name for art in arts) or "none"
    click.echo(f"\npictures: {names}; in use: {folder.active() or 'none'}")


def _inspect_picture(path: Path, as_json: bool) -> None:
    from engines.picture import load_picture

    picture = load_picture(path)
    if as_json:
        print_json(
            {
                "picture": path,
                "size": picture.size,
                "bytes": path.stat().st_size,
                "sha256": picture.sha256,
                "provenance": picture.provenance,
                "notes": picture.notes,
            }
        )
        return
    click.echo(_picture_facts(path, picture))
    for note in picture.notes:
        click.echo(f"note: {note}")


def _manifest_facts(folder: BundleFolder) -> str:
    manifest = folder.manifest
    revision = f" at {manifest.revision}" if manifest.revision else ""
    return facts(
        [
            ("base model", f"{manifest.base_model}{revision}"),
            ("family", manifest.model_type),
            ("weights sha256", manifest.weights_sha256),
            ("engine", f"{manifest.engine}, {manifest.precision}"),
            ("picture", f"{manifest.picture_size}x{manifest.picture_size}"),
            ("longest sequence", f"{manifest.max_length} tokens"),
            ("built with", ", ".join(f"{k} {v}" for k, v in manifest.toolchain.items())),
            ("schema", manifest.schema),
        ]
    )


def _file_table(folder: BundleFolder) -> str:
    from engines.files import size_text

    files = folder.manifest.files
    rows = [(record.path, size_text(record.bytes), record.sha256[:SHORT], "ok") for record in files]
    rows.append(("in all", size_text(sum(record.bytes for record in files)), "", ""))
    return table(("file", "size", "sha256", "check"), rows)


def _picture_facts(path: Path, picture: Picture) -> str:
    from engines.files import size_text

    pairs: list[tuple[str, object]] = [
        ("picture", f"{picture.size}x{picture.size} RGB, {size_text(path.stat().st_size)}"),
        ("sha256", picture.sha256),
    ]
    if picture.provenance is not None:
        known = picture.provenance
        score = "not measured" if known.score is None else f"{known.score:.3f} on validation"
        pairs += [
            ("trained for", f"{known.base_model} (weights {known.base_hash[:SHORT]})"),
            ("task", f"{known.task} (data {known.data_hash[:SHORT]})"),
            ("objective", f"{known.objective}, seed {known.seed}, step {known.step}"),
            ("score", score),
            ("written by", f"art-export {known.version}"),
        ]
    return facts(pairs)
