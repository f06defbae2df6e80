"""Requests a second of `art-export serve`: one after another, and many at once with mixed pictures.

    python -m benchmarks.serving BUNDLE -o OUT.json [-n 96] [--repeats 3]

BUNDLE has pictures. The clients run on the same machine, beside the server. Answers at every
concurrency must equal those given one after another.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import click

from engines.environment import environment
from engines.files import write_json

CONCURRENCY = (1, 8, 32)
NAMES = ("Anna", "Ben", "Carla", "David", "Eva", "Finn")
TOKENS = 64


def questions(models: list[str], count: int) -> list[dict[str, Any]]:
    """Requests that go through the models in turn, no prompt twice."""
    found = []
    for number in range(count):
        name = NAMES[number % len(NAMES)]
        text = (
            f"{name} has {number + 3} apples and buys {number + 7} more. How many does {name} have?"
        )
        messages = [{"role": "user", "content": text}]
        model = models[number % len(models)]
        found.append({"model": model, "messages": messages, "max_tokens": TOKENS})
    return found


def ask(url: str, body: dict[str, Any]) -> tuple[str, int]:
    """Text and number of tokens of an answer."""
    data = json.dumps(body).encode()
    with urlopen(Request(f"{url}/v1/chat/completions", data), timeout=300) as response:
        answer = json.load(response)
    return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]


def turn(
    url: str, asked: list[dict[str, Any]], workers: int
) -> tuple[float, list[tuple[str, int]]]:
    """Seconds that all requests took, and the answers."""
    with ThreadPoolExecutor(workers) as pool:
        began = time.perf_counter()
        answers = list(pool.map(lambda body: ask(url, body), asked))
        return time.perf_counter() - began, answers


def measure(url: str, count: int, repeats: int) -> dict[str, Any]:
    """Medians over turns in which every concurrency had its go."""
    with urlopen(f"{url}/v1/models") as response:
        models = [card["id"] for card in json.load(response)["data"]]
    asked = questions(models, count)
    _, expected = turn(url, asked, 1)
    seconds: dict[int, list[float]] = {workers: [] for workers in CONCURRENCY}
    different = dict.fromkeys(CONCURRENCY, 0)
    for _ in range(repeats):
        for workers in CONCURRENCY:
            spent, answers = turn(url, asked, workers)
            seconds[workers].append(spent)
            different[workers] += sum(a != b for a, b in zip(answers, expected, strict=True))
    tokens = sum(number for _, number in expected)
    return {
        "models": models,
        "requests": count,
        "tokens": tokens,
        "concurrency": {
            str(workers): {
                "seconds": spent,
                "requests_per_second": count / statistics.median(spent),
                "tokens_per_second": tokens / statistics.median(spent),
                "answers_that_differ": different[workers],
            }
            for workers, spent in seconds.items()
        },
    }


@click.command(help=__doc__)
@click.argument("bundle")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option("-n", "count", default=96, show_default=True, help="Requests in a turn.")
@click.option("--repeats", default=3, show_default=True, help="Turns.")
def main(bundle: str, out: Path, count: int, repeats: int) -> None:
    command = [sys.executable, "-m", "art_export.cli.main", "serve", bundle, "--port=0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            ready = json.loads(server.stdout.readline()) if server.stdout else {}
            found = measure(ready["url"], count, repeats)
        finally:
            server.terminate()
    result = {"kind": "serving", "bundle": Path(bundle).name, **found}
    write_json(out, result | {"environment": environment()})
    click.echo(json.dumps(found["concurrency"], indent=1))


if __name__ == "__main__":
    main()
