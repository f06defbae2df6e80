"""The health check of a container: `python -m art_export.serve.health`.

Exit status 0 if the container's main process is no server, or one that answers; 1 otherwise. So one
that builds or swaps for hours does not count as unhealthy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

from art_export.cli.serve import command

MAIN = Path("/proc/1/cmdline")
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that stand for all of the machine's -> one that can be asked."""
SECONDS = 4


def health_url(words: Sequence[str]) -> str | None:
    """Where the server that these words start says how it is; None if they start no server."""
    if "serve" not in words:
        return None
    rest = list(words[words.index("serve") + 1 :])
    options = command.make_context("serve", rest, resilient_parsing=True).params
    host = EVERYWHERE.get(options["host"], options["host"])
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{options['port']}/health"


def healthy(words: Sequence[str]) -> bool:
    """Whether there is no server to ask, or it answers that it is well."""
    url = health_url(words)
    if url is None:
        return True
    try:
        with urlopen(url, timeout=SECONDS):
            return True
    except OSError:
        # Refused, too slow, or another status than 200.
        return False


if __name__ == "__main__":
    sys.exit(not healthy(MAIN.read_text(encoding="utf-8").split("\0")[:-1]))
