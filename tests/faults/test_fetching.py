"""Servers that answer with anything, and several who fetch at once."""

import contextlib
import hashlib
import socket
import threading

import numpy as np
import pytest

from gpucnn.data import KNOWN, fetch
from gpucnn.data.known import File, KnownSet
from gpucnn.errors import ConfigurationError, DataError
from gpucnn.storage import locked

CONTENT = np.random.default_rng(0).bytes(5000)
BEGIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
REDIRECTS = [
    "http://[::1",
    "http://a b/",
    "http://" + "a" * 70 + ".example/",
    "http://.example/",
    "http://x:99999999/",
    "http://x:port/",
    "//",
    "",
    "file:///etc/passwd",
    "ftp://127.0.0.1:1/",
    "gopher://x",
    "http://\xff\xfe/",
    "http:///x",
    "http://127.0.0.1:0/",
    "\x00",
    "/" + "a" * 70_000,
]


def sets(monkeypatch, url: str) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    file = File("a.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), (url,))
    monkeypatch.setitem(KNOWN, "mine", KnownSet("mine", "", (file,)))


@pytest.fixture
def answers(monkeypatch):
    """A list of answers, each sent as it is to one request; the last one to all that come."""
    found: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        number = 0
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(1 << 16)
                    connection.sendall(found[min(number, len(found) - 1)])
                except OSError:
                    pass
            number += 1

    thread = threading.Thread(target=serve)
    thread.start()
    sets(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}/a.bin")
    yield found
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def refused(folder) -> None:
    with pytest.raises(DataError) as caught:
        fetch("mine", folder, timeout=1.0)
    assert "\n" not in str(caught.value)
    assert not (folder / "a.bin").exists()
    assert not (folder / "fetch.lock").exists()


@pytest.mark.parametrize("place", REDIRECTS, ids=range(len(REDIRECTS)))
def test_redirects_to_nowhere(tmp_path, answers, place):
    answers.append(b"HTTP/1.1 302 Found\r\nLocation: " + place.encode("latin1") + b"\r\nContent-Length: 0\r\n\r\n")
    refused(tmp_path)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 9999 x\r\n\r\n",
        b"HTTP/1.1 416 x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + CONTENT[:10],
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + CONTENT[:10],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + CONTENT,
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 7-\xff\r\n\r\n" + CONTENT,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X" * 100_000,
        BEGIN + CONTENT[:100] + bytes(4900),
        BEGIN + CONTENT[:4000],
        BEGIN.replace(b"5000", b"99999") + CONTENT + b"more",
        BEGIN.replace(b"OK", b"\xff\x00"),
    ],
    ids=range(16),
)
def test_answers_of_any_kind(tmp_path, answers, answer):
    answers.append(answer)
    refused(tmp_path)
    answers[:] = [BEGIN + CONTENT]
    assert (fetch("mine", tmp_path) / "a.bin").read_bytes() == CONTENT, "what it left does no harm"


def test_random_answers(tmp_path, answers):
    rng = np.random.default_rng(1)
    good = BEGIN + CONTENT
    for number in range(40):
        damaged = bytearray(good)
        for place in rng.integers(0, 60, 3):
            damaged[place] = int(rng.integers(256))
        answers[:] = [bytes(damaged), bytes(damaged)[: int(rng.integers(5000))]]
        folder = tmp_path / str(number)
        with contextlib.suppress(DataError):
            fetch("mine", folder, timeout=1.0)
            assert (folder / "a.bin").read_bytes() == CONTENT


def test_two_who_fetch_into_one_folder(tmp_path, answers):
    answers.append(BEGIN + CONTENT)
    with (
        locked(tmp_path / "fetch.lock", tmp_path, "wait"),
        pytest.raises(ConfigurationError, match="is in use by process .*; wait for it"),
    ):
        fetch("mine", tmp_path)
    fetch("mine", tmp_path)
    with locked(tmp_path / "fetch.lock", tmp_path, "wait"):
        fetch("mine", tmp_path)  # all of it is there: nothing is written


def test_a_part_that_is_a_link_is_not_followed(tmp_path, answers):
    answers.append(BEGIN + CONTENT)
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "a.bin.part").symlink_to("mine.txt")
    with pytest.raises(DataError):
        fetch("mine", tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
