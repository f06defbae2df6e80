"""A picture: swapped into the bundle, in a process or on a running server."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from art_export.bench.contender import Contender
from art_export.bundle import Bundle
from engines.bundle import ARTS
from engines.contract import EngineOptions
from engines.errors import CheckFailed
from engines.picture import load_picture
from engines.prefix import PrefixState

STOP_SECONDS = 60


class ArtContender(Contender):
    """A bundle; an adapter is a PNG, and what is held of it is its name in the bundle."""

    def __init__(self, bundle: Path, options: EngineOptions) -> None:
        self.bundle = Bundle.load(bundle, options)
        self.runtime = self.bundle.runtime

    def deploy(self, adapter: Path) -> tuple[dict[str, float], str]:
        began = time.perf_counter()
        picture = load_picture(adapter, self.bundle.folder.manifest.picture_size)
        read = time.perf_counter() - began
        steps = self.bundle.swap(picture, adapter.stem).seconds
        return {"read": read, **{n: s for n, s in steps.items() if n != "total"}}, adapter.stem

    def hold(self, adapter: Path) -> str:
        self.bundle.prefix(adapter.stem)
        return adapter.stem

    def ship(self, adapter: Path) -> Path:
        """The art's folder, copied: other machines have the same bundle."""
        arts = self.bundle.folder.path / ARTS
        shipped = arts / f"{adapter.stem}-shipped"
        shutil.rmtree(shipped, ignore_errors=True)
        shutil.copytree(arts / adapter.stem, shipped)
        return shipped

    def prefix(self, held: str | None) -> PrefixState:
        return self.bundle.prefix(held)


def swaps_on_server(bundle: Path, pictures: Sequence[Path], prompt: str, count: int) -> list[float]:
    """Seconds from a PNG file to the first token on a running server: the picture is sent with PUT,
    then a request for one token.

    Raises:
        CheckFailed: the server does not start, or refuses.
    """
    times = []
    with _serving(bundle) as url:
        for number in range(count):
            began = time.perf_counter()
            _send(url, "PUT", "/v1/arts/bench", pictures[number % 2].read_bytes(), "image/png")
            body = {
                "model": "bench",
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": 1,
                "temperature": 0,
            }
            data = json.dumps(body).encode()
            _send(url, "POST", "/v1/chat/completions", data, "application/json")
            times.append(time.perf_counter() - began)
    return times


@contextmanager
def _serving(bundle: Path) -> Iterator[str]:
    """A server in a process of its own, for as long as the context lasts: its address."""
    command = [sys.executable, "-m", "art_export.cli.main", "serve", str(bundle)]
    server = subprocess.Popen(
        [*command, "--port", "0", "--allow-swap"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = server.stdout.readline() if server.stdout else ""
        if not line:
            told = server.communicate()[1].strip().splitlines()
            raise CheckFailed(f"art-export serve did not start: {(told or ['no reason'])[-1]}")
        yield json.loads(line)["url"]
    finally:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _send(url: str, verb: str, path: str, data: bytes, kind: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
    try:
        connection.request(verb, path, data, {"Content-Type": kind})
        response = connection.getresponse()
        told = response.read()
    finally:
        connection.close()
    if response.status >= http.client.BAD_REQUEST:
        raise CheckFailed(f"the server answered {response.status} to {verb} {path}: {told[:200]!r}")
