"""Fill the measured part of docs/real-lm.md from the results' file:

    python -m benchmarks.real_lm.report

Everything between the two markers is replaced; no figure is typed by hand. What is missing says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from art_export.paired import mcnemar_by_id
from benchmarks.real_lm.command import RESULTS, run
from benchmarks.real_lm.data import FILES
from benchmarks.real_lm.recipes import METHODS, REMEDIES, ROWS
from benchmarks.real_lm.results import precision_of
from engines.errors import DataError
from engines.files import write_bytes

SEEDS = (0, 1, 2)
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
MISSING, CPU = "not measured", "cpu"
NAMES = {"bfcl": "BFCL simple", "svamp": "SVAMP"}
LABELS = {
    "base": "no adapter",
    "two-shot": "two examples in the prompt",
    "noise": "noise picture",
    "art": "**ART**",
    "lora-8": "LoRA r=8",
    "lora-16": "LoRA r=16",
    "soft-prompt": "soft prompt, 64 vectors",
    "art-32": "ART, epsilon 32/255",
    "art-320": "ART, 320 steps",
    "lora-8-320": "LoRA r=8, 320 steps",
    "art-sign": "ART, steps along the sign, from an artwork",
    "art-longer": "ART, trained on at a lower rate",
    "art-random-tower": "ART, random tower",
    "art-144": "ART, 384x384, 144 tokens",
    "art-distilled": "ART, distilled from the two-shot prompt",
    "art-distilled-sft": "ART, distilled, then on the answers",
    "art-grpo": "ART, then GRPO",
}
PAIRS = (
    ("art", "lora-8"),
    ("art", "lora-16"),
    ("art", "soft-prompt"),
    ("art", "two-shot"),
    ("art-320", "lora-8-320"),
)
Content = dict[str, Any]


def render(content: Content) -> str:
    """The measured part, Markdown."""
    parts = [_setting(content)]
    for task in FILES:
        parts += [f"### {NAMES[task]}", *_task(content, task)]
    parts += ["### On the compiled engine", _compiled(content)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _task(content: Content, task: str) -> Iterator[str]:
    if task not in content["data"]:
        yield f"{MISSING.capitalize()}."
        return
    splits = content["data"][task]
    counts = {name: splits[name]["examples"] for name in splits}
    yield (
        f"{counts['train']} examples to train on, {counts['validation']} to choose with, "
        f"{counts['test']} held out. Share right of those held out, with its 95 % Wilson interval."
    )
    yield _scores(content, task)
    yield "Pairs, on the same held-out examples (McNemar's exact test, two-sided):"
    yield _pairs(content, task)
    yield "Trainings, in the order of the rows; validation alone decides between learning rates:"
    yield _trainings(content, task)


def _scores(content: Content, task: str) -> str:
    rows = [["", *(f"seed {seed}" for seed in SEEDS), "mean, seeds"]]
    for row in ROWS:
        cells = [content["cells"].get(f"{task}/{row}/{seed}") for seed in SEEDS]
        found = [cell["accuracy"] for cell in cells if cell]
        if row in REMEDIES and not found:
            continue
        mean = f"{sum(found) / len(found):.3f}, {len(found)} of {len(SEEDS)}" if found else MISSING
        once = row == "base" and found
        shown = ["" if once and seed else _share(cells[seed]) for seed in SEEDS]
        rows.append([LABELS[row], *shown, mean])
    return _table(rows)


def _pairs(content: Content, task: str) -> str:
    rows = [["", "seed", "difference", "only the first right", "only the second", "p"]]
    for first, second in PAIRS:
        for seed in SEEDS:
            cells = [content["cells"].get(f"{task}/{row}/{seed}") for row in (first, second)]
            if None in cells:
                continue
            test = mcnemar_by_id(*(cell["right"] for cell in cells))
            rows.append(
                [
                    f"{LABELS[first]} and {LABELS[second]}",
                    str(seed),
                    f"{100 * test.difference:+.1f} points",
                    str(test.b),
                    str(test.c),
                    f"{test.p_value:.3f}",
                ]
            )
    return _table(rows) if len(rows) > 1 else f"{MISSING.capitalize()}."


def _trainings(content: Content, task: str) -> str:
    head = ["", "seed", "rate", "best step", "validation, exact", "validation, loss"]
    rows = [[*head, "CPU seconds", "adapter"]]
    for row, recipe in ROWS.items():
        for rate in recipe.rates:
            for seed in SEEDS:
                found = content["trainings"].get(f"{task}/{row}/{rate:.4g}/{seed}")
                if found:
                    rows.append([LABELS[row], str(seed), f"{rate:.4g}", *_training(found)])
    return _table(rows) if len(rows) > 1 else f"{MISSING.capitalize()}."


def _training(found: dict[str, Any]) -> list[str]:
    score = found["validation"]
    return [
        f"{found['best_step']} of {found['recipe']['steps']}",
        f"{score['exact']:.3f}",
        f"{score['loss']:.3f}",
        f"{found['cpu_seconds']:,.0f}" if found.get("device", CPU) == CPU else "on a GPU",
        f"{found['bytes'] / 1000:,.0f} kB",
    ]


def _compiled(content: Content) -> str:
    rows = [["", "share right", "verify", "swap", "weights"]]
    for key, found in content["compiled"].items():
        task, row, seed, precision = key.split("/")
        checks = [check["passed"] for check in (found["verify"] or {"checks": []})["checks"]]
        rows.append(
            [
                f"{NAMES[task]}, {LABELS[row]}, seed {seed}, {found['engine']} {precision}",
                _share(found["score"]),
                f"{sum(checks)} of {len(checks)} checks held" if checks else MISSING,
                f"{1000 * found['swap']['total']:.0f} ms",
                f"{found['build']['bytes'] / 1e6:.0f} MB",
            ]
        )
    return _table(rows) if len(rows) > 1 else f"{MISSING.capitalize()}."


def _setting(content: Content) -> str:
    model = content["model"]
    made = ", ".join(f"{key} {value}" for key, value in model.items() if key != "weights_sha256")
    missing = [
        f"{task}/{row}/{seed}"
        for task in FILES
        for row in METHODS
        for seed in (SEEDS[:1] if row == "base" else SEEDS)
        if f"{task}/{row}/{seed}" not in content["cells"]
    ]
    told = f"Model: {made}; weights {model['weights_sha256'][:12]}. "
    told += f"PyTorch computed in {precision_of(content)}: {_devices(content)}. "
    return told + (f"{len(missing)} cells are still missing." if missing else "")


def _devices(content: Content) -> str:
    """Where the cells were computed, with what."""
    counts: Counter[str] = Counter()
    for cell in content["cells"].values():
        here = cell["environment"]
        device = cell.get("device", CPU)
        where = f"a CPU ({here['cpu']['name']})" if device == CPU else f"one {device}"
        counts[f"{where}, PyTorch {here['torch']}"] += 1
    return "; ".join(f"{count} cells on {where}" for where, count in counts.most_common())


def _share(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return MISSING
    return f"{cell['accuracy']:.3f} ({cell['low']:.3f} to {cell['high']:.3f})"


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def filled(text: str, content: Content) -> str:
    """`text` with its measured part made from `content`.

    Raises:
        DataError: the text has no place for it.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(
            got="a text without a measured part",
            expected=f"the lines {BEGIN} and {END}",
            fix="add them where the tables belong",
        )
    return f"{before}{BEGIN}\n\n{render(content)}\n{END}{after}"


@click.command()
@click.option(
    "--results",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=RESULTS,
)
@click.option(
    "--into",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=Path("docs/real-lm.md"),
)
def main(results: Path, into: Path) -> None:
    """Write what has been measured into the document."""
    content = json.loads(results.read_text("utf-8"))
    write_bytes(into, filled(into.read_text("utf-8"), content).encode())


if __name__ == "__main__":
    run(main)
