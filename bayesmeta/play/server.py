"""The playground's server: one page, and what learners answer as JSON, for this machine alone."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch

from bayesmeta.learner import Learner
from bayesmeta.play.learners import hidden_task, shown

__all__ = ["Playground"]

MOST_POINTS = 100
MOST_BYTES = 20_000
FAR = 1e6
"""The largest size of a coordinate."""
_GRID = 121
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Refused(Exception):
    """A request that gets a status and a line."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        super().__init__(line)
        self.status = status


class Playground(ThreadingHTTPServer):
    """Serves the page on 127.0.0.1. Learners may be added while it runs; they answer one request at a time.

    - ``GET /`` is the page, ``GET /state`` what it shows: axes, learners, what is being trained, what went wrong.
    - ``POST /predict`` with ``{"points": [[x, y], ...]}`` answers ``{"x": [...], "learners": {name: ...}}``, of each learner what
      `bayesmeta.play.learners.shown` gives, or ``{"error": line}``.
    - ``GET /task?seed=3`` is a hidden function, where there is a family to draw one from.

    Other requests are answered by a 4xx status and a line, as are those of pages elsewhere (Origin), and those whose Host is not
    this machine: a page may have let its own name point here (DNS rebinding).

    Args:
        port: to listen at; 0 for any that is free.
        x, y: the axes, each a low and a high end.
        hidden: whether there are hidden tasks.

    Raises:
        OSError: the port is in use, or not to be had.
    """

    daemon_threads = False
    """Closing waits for them: a thread that has used torch must not outlive Python, which it would abort."""

    def __init__(
        self,
        port: int = 0,
        *,
        x: tuple[float, float] = (-5.0, 5.0),
        y: tuple[float, float] = (-6.0, 6.0),
        hidden: bool = True,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.x, self.y, self.hidden = x, y, hidden
        self.learners: dict[str, tuple[str, Learner]] = {}
        """By name: a note about each, and the learner."""
        self.training = ""
        """What is going on, in words; empty when all learners are there."""
        self.problems: list[str] = []
        """What went wrong, a line each."""
        self._asked, self._ended = threading.Lock(), False

    def server_close(self) -> None:
        """Stops listening, and waits for the answer that is being made; those that wait for their turn are refused."""
        self._ended = True
        super().server_close()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def grid(self) -> torch.Tensor:
        """The inputs at which learners are asked, ``(M,)``."""
        return torch.linspace(*self.x, _GRID)

    def page(self) -> bytes:
        """The page."""
        return files("bayesmeta.play").joinpath("page.html").read_bytes()

    def state(self) -> dict[str, Any]:
        """What the page must know before it asks."""
        return {
            "x": self.x,
            "y": self.y,
            "hidden": self.hidden,
            "learners": {name: note for name, (note, _) in list(self.learners.items())},
            "training": self.training,
            "problems": self.problems,
        }

    def predict(self, known: list[tuple[float, float]]) -> dict[str, Any]:
        """Every learner's answer to a task's points."""
        x, found = self.grid(), dict[str, Any]()
        with self._asked:
            if self._ended:
                raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "the playground has ended")
            for name, (_, learner) in list(self.learners.items()):
                try:
                    found[name] = shown(learner, known, x)
                except (
                    Exception
                ) as error:  # one that fails, as a learner from a file may, must not take the others along
                    found[name] = {"error": f"{type(error).__name__}: {error}"}
        return {"x": x.tolist(), "learners": found}


class _Handler(BaseHTTPRequestHandler):
    server: Playground
    server_version, sys_version = "bayesmeta", ""
    timeout = 2
    """Seconds that a client may be silent."""

    def handle(self) -> None:
        """Answers, or stops without a word where the client has hung up."""
        with suppress(ConnectionError):
            super().handle()

    def _respond(self) -> None:
        status, kind = HTTPStatus.OK, "application/json"
        length = self.headers.get("Content-Length", "")
        size = int(length[:10]) if length.isdecimal() else -1  # ten digits are too many already
        # All of it, or its sender hears of a broken connection; but what never ends, or never comes, is not waited for.
        body = self.rfile.read(size) if 0 < size <= 50 * MOST_BYTES else b""
        try:
            answer = self._routed(size, body)
        except _Refused as refusal:
            status, answer = refusal.status, f"{refusal}\n".encode()
        if status is not HTTPStatus.OK or self.path == "/":
            kind = f"text/{'html' if status is HTTPStatus.OK else 'plain'}; charset=utf-8"
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _respond  # noqa: N815  (http.server's names)

    def _routed(self, size: int, body: bytes) -> bytes:
        """The answer to a request."""
        if not _is_local(host := self.headers.get("Host", "")):
            raise _Refused(HTTPStatus.FORBIDDEN, f"Host: expected 127.0.0.1 or localhost, got {host!r}")
        if (origin := self.headers.get("Origin", f"http://{host}")) != f"http://{host}":
            raise _Refused(HTTPStatus.FORBIDDEN, f"Origin: expected http://{host}, got {origin!r}")
        path, _, query = self.path.partition("?")
        methods = {"/": "GET", "/state": "GET", "/predict": "POST"} | ({"/task": "GET"} if self.server.hidden else {})
        if path not in methods:
            raise _Refused(HTTPStatus.NOT_FOUND, f"expected one of {', '.join(methods)}, got {path!r}")
        if self.command != methods[path]:
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path}: expected {methods[path]}, got {self.command}")
        if path == "/":
            return self.server.page()
        if path == "/state":
            return _json(self.server.state())
        if path == "/task":
            return _json(hidden_task(_seed(query), self.server.grid()))
        if size < 0:
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "Content-Length: expected the number of bytes that follow")
        if size > MOST_BYTES:
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"body: too large, expected at most {MOST_BYTES} bytes, got {size}",
            )
        return _json(self.server.predict(_points(body)))

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a line a click would bury what matters."""


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _is_local(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname in ("127.0.0.1", "localhost", "::1")
    except ValueError:  # no host at all
        return False


def _seed(query: str) -> int:
    seed = parse_qs(query).get("seed", [""])[0]
    if not (seed.isascii() and seed.isdecimal() and len(seed) < 10):
        raise _Refused(
            HTTPStatus.BAD_REQUEST, f"seed: expected a whole number below 10⁹, got {seed!r}; e.g. /task?seed=3"
        )
    return int(seed)


def _points(body: bytes) -> list[tuple[float, float]]:
    """The points of a request, checked."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON")

    try:
        given = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise _Refused(
            HTTPStatus.BAD_REQUEST, f'body: expected JSON, {{"points": [[x, y], ...]}}, got {error}'
        ) from error
    found = given.get("points") if isinstance(given, dict) else None
    if not isinstance(found, list):
        raise _Refused(HTTPStatus.BAD_REQUEST, 'body: expected {"points": [[x, y], ...]}, got something else')
    if len(found) > MOST_POINTS:
        raise _Refused(HTTPStatus.BAD_REQUEST, f"points: expected at most {MOST_POINTS}, got {len(found)}")
    for place, point in enumerate(found):
        if not isinstance(point, list) or len(point) != 2 or not all(map(_is_number, point)):
            raise _Refused(
                HTTPStatus.BAD_REQUEST,
                f"points[{place}]: expected two numbers of size {FAR:g} at most, got {json.dumps(point)[:80]}",
            )
    return [(float(x), float(y)) for x, y in found]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= FAR
