"""The server answers this machine alone, and says what is wrong with what it refuses."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest
import torch
from play_support import maml, running
from torch import Tensor, nn

import bayesmeta as bm
from bayesmeta.play.learners import shown
from bayesmeta.play.server import MOST_BYTES, MOST_POINTS, Playground

KNOWN = [[-1.0, 2.0], [0.5, 1]]


@pytest.fixture
def playground() -> Iterator[Playground]:
    abml = bm.ABML(bm.networks.MLP(1, 1, hidden=(4,)), bm.likelihoods.Gaussian())
    with running({"MAML": maml(), "ABML": abml}) as found:
        yield found


def ask(
    playground: Playground, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, str, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", playground.server_address[1], timeout=20)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text, dict(response.getheaders())


def predict(playground: Playground, known: Any) -> Any:
    status, text, _ = ask(playground, "POST", "/predict", json.dumps({"points": known}).encode())
    assert status == 200
    return json.loads(text)


def test_learners_answer_with_what_they_say_themselves(playground: Playground) -> None:
    found = predict(playground, KNOWN)
    assert found["x"] == playground.grid().tolist()
    for name, (_, learner) in playground.learners.items():
        assert found["learners"][name] == shown(learner, [(-1.0, 2.0), (0.5, 1.0)], playground.grid())


def test_no_point_is_the_prior_and_points_move_every_band(playground: Playground) -> None:
    prior, after = predict(playground, []), predict(playground, KNOWN)
    for name in playground.learners:
        assert prior["learners"][name]["low"] != after["learners"][name]["low"]


def test_many_at_once_hear_what_one_does(playground: Playground) -> None:
    expected = predict(playground, KNOWN)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == expected for found in pool.map(lambda _: predict(playground, KNOWN), range(16)))


def test_the_state_and_the_page(playground: Playground) -> None:
    playground.training, playground.problems = "Training DKT.", ["b.bayesmeta: damaged"]
    status, text, headers = ask(playground, "GET", "/state")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(text) == {
        "x": [-5, 5],
        "y": [-6, 6],
        "hidden": True,
        "learners": {"MAML": "note of MAML", "ABML": "note of ABML"},
        "training": "Training DKT.",
        "problems": ["b.bayesmeta: damaged"],
    }
    status, text, headers = ask(playground, "GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Content-Security-Policy"].startswith("default-src 'self' 'unsafe-inline'")
    assert text.startswith("<!doctype html>")


def test_hidden_tasks_are_of_a_seed(playground: Playground) -> None:
    first, again, other = (ask(playground, "GET", f"/task?seed={seed}")[1] for seed in (3, 3, 4))
    assert first == again != other
    playground.hidden = False
    assert ask(playground, "GET", "/task?seed=3")[0] == 404


POINT = b'{"points": [[%s, 0]]}'


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "line"),
    [
        ("POST", "/predict", b"{", 400, "expected JSON"),
        ("POST", "/predict", b"\xff\xfe", 400, "expected JSON"),
        ("POST", "/predict", b"[" * 10_000, 400, "expected JSON"),
        ("POST", "/predict", b"", 400, "expected JSON"),
        ("POST", "/predict", b"[]", 400, 'expected {"points"'),
        ("POST", "/predict", b'{"points": 3}', 400, 'expected {"points"'),
        ("POST", "/predict", b'{"points": [[0, 0], [1]]}', 400, r"points[1]: expected two numbers"),
        ("POST", "/predict", b'{"points": ["ab"]}', 400, r"points[0]: expected two numbers"),
        ("POST", "/predict", POINT % b'"1"', 400, r"points[0]: expected two numbers"),
        ("POST", "/predict", POINT % b"true", 400, r"points[0]: expected two numbers"),
        ("POST", "/predict", POINT % b"null", 400, r"points[0]: expected two numbers"),
        ("POST", "/predict", POINT % b"NaN", 400, "NaN is no number"),
        ("POST", "/predict", POINT % b"-Infinity", 400, "-Infinity is no number"),
        ("POST", "/predict", POINT % b"1e999", 400, "of size 1e+06 at most"),
        ("POST", "/predict", POINT % b"1000001", 400, "of size 1e+06 at most"),
        ("POST", "/predict", POINT % (b"9" * 400), 400, "of size 1e+06 at most"),
        ("POST", "/predict", POINT % (b"9" * 5000), 400, "expected JSON"),
        (
            "POST",
            "/predict",
            json.dumps({"points": [[0, 0]] * (MOST_POINTS + 1)}).encode(),
            400,
            "at most 100, got 101",
        ),
        ("POST", "/predict", b" " * (MOST_BYTES + 1), 413, "too large, expected at most 20000 bytes, got 20001"),
        ("POST", "/predict?x=1", b"{", 400, "expected JSON"),
        ("GET", "/predict", None, 405, "expected POST, got GET"),
        ("POST", "/", b"{}", 405, "expected GET, got POST"),
        ("PUT", "/predict", b"{}", 405, "expected POST, got PUT"),
        ("DELETE", "/state", None, 405, "expected GET, got DELETE"),
        ("HEAD", "/", None, 405, ""),
        ("GET", "/../server.py", None, 404, "got '/../server.py'"),
        ("GET", "/page.html", None, 404, "expected one of /, /state, /predict, /task"),
        ("GET", "/task", None, 400, "seed: expected a whole number"),
        ("GET", "/task?seed=-1", None, 400, "seed: expected a whole number"),
        ("GET", "/task?seed=1234567890", None, 400, "seed: expected a whole number"),
    ],
)
def test_bad_requests_get_a_line(
    playground: Playground, method: str, path: str, body: bytes | None, status: int, line: str
) -> None:
    found, text, headers = ask(playground, method, path, body)
    assert found == status
    assert line in text
    assert text.count("\n") == (method != "HEAD")
    assert headers["Content-Type"].startswith("text/plain")
    assert predict(playground, KNOWN)["learners"]  # it goes on


@pytest.mark.parametrize("length", ["-1", "ten", "", "²"])
def test_a_body_of_unknown_length_is_refused(playground: Playground, length: str) -> None:
    with socket.create_connection(playground.server_address) as connection:
        request = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(request.encode("latin-1", "replace"))
        assert b" 411 " in connection.recv(1000).split(b"\r\n")[0]


def test_a_body_that_never_ends_is_refused_at_once(playground: Playground) -> None:
    with socket.create_connection(playground.server_address, timeout=1) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n" % (b"9" * 5000))
        assert b" 413 " in connection.recv(1000).split(b"\r\n")[0]


def test_a_client_that_hangs_up_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    with running({"MAML": maml()}) as playground:
        connection = socket.create_connection(playground.server_address)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        connection.close()
        assert predict(playground, KNOWN)["learners"]
    assert capfd.readouterr().err == ""


def test_those_who_wait_when_it_ends_are_refused() -> None:
    with running({"MAML": maml()}) as playground:
        pass
    with pytest.raises(Exception, match="the playground has ended"):
        playground.predict([])


def test_a_client_that_stops_halfway_is_left(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground.RequestHandlerClass, "timeout", 0.1)
    with socket.create_connection(playground.server_address, timeout=10) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        assert connection.recv(1000) == b""
    assert predict(playground, KNOWN)["learners"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:8765", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("[", 403),
        ("", 403),
    ],
)
def test_only_this_machine_is_a_host(playground: Playground, host: str, status: int) -> None:
    assert ask(playground, "GET", "/state", Host=host)[0] == status


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "https://localhost:8765"])
def test_pages_elsewhere_are_refused(playground: Playground, origin: str) -> None:
    body = json.dumps({"points": KNOWN}).encode()
    assert ask(playground, "POST", "/predict", body, Host="localhost:8765", Origin=origin)[0] == 403
    assert ask(playground, "POST", "/predict", body, Host="localhost:8765", Origin="http://localhost:8765")[0] == 200


def test_it_listens_on_the_loopback_interface_alone(playground: Playground) -> None:
    host, port = playground.server_address[:2]
    assert host == "127.0.0.1"
    with pytest.raises(OSError):  # noqa: PT011  (refused, or no such address)
        socket.create_connection(("127.0.0.2", port), timeout=1).close()


class Failing(bm.likelihoods.Likelihood):
    """Outputs that are no numbers once there are points, or an error."""

    def __init__(self, error: bool) -> None:
        super().__init__()
        self.inner, self.raises = bm.likelihoods.Gaussian(), error

    def forward(self, outputs: Tensor) -> Any:
        if self.raises:
            raise RuntimeError("no answer")
        return self.inner(outputs * torch.nan)

    def error(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.inner.error(outputs, y)


def test_a_learner_that_fails_says_so_and_others_answer() -> None:
    learners = {"good": maml()} | {
        name: bm.MAML(nn.Linear(1, 1), Failing(error)) for name, error in (("nan", False), ("broken", True))
    }
    with running(learners) as playground:
        found = predict(playground, KNOWN)["learners"]
    assert len(found["good"]["mean"]) == 121
    assert "NaN or infinity" in found["nan"]["error"]
    assert found["broken"]["error"] == "RuntimeError: no answer"
