"""The container's health check: servers are asked, whatever else runs is well."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from art_export.serve.health import health_url, healthy

PROGRAM = ("/opt/art-export/bin/python", "/opt/art-export/bin/art-export")


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert self.path == "/health"
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Answers) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("words", "url"),
    [
        ("serve qwen", "http://127.0.0.1:8000/health"),
        ("serve qwen --host 0.0.0.0 --device cuda", "http://127.0.0.1:8000/health"),
        ("serve --port=81 --host 172.17.0.2 qwen --max-batch 4", "http://172.17.0.2:81/health"),
        ("serve qwen --host :: --port 9000", "http://[::1]:9000/health"),
    ],
)
def test_it_asks_where_the_server_listens(words: str, url: str) -> None:
    assert health_url([*PROGRAM, *words.split()]) == url


@pytest.mark.parametrize("words", ["build demo -o bundle", "swap qwen art.png", "--help"])
def test_what_is_no_server_is_well(words: str) -> None:
    assert healthy([*PROGRAM, *words.split()])


@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False)])
def test_a_server_is_as_well_as_it_says(server: HTTPServer, status: int, well: bool) -> None:
    server.status = status  # type: ignore[attr-defined]
    words = [*PROGRAM, "serve", "qwen", "--host", "0.0.0.0", "--port", str(server.server_port)]
    assert healthy(words) is well


def test_a_server_that_does_not_answer_is_not_well() -> None:
    with HTTPServer(("127.0.0.1", 0), _Answers) as gone:
        port = gone.server_port
    assert not healthy([*PROGRAM, "serve", "qwen", "--port", str(port)])


def test_the_program_ends_with_0_where_the_main_process_is_no_server() -> None:
    done = subprocess.run([sys.executable, "-m", "art_export.serve.health"], capture_output=True)
    assert done.returncode == 0, done.stderr
