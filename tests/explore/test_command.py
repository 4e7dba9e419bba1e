"""`gpucnn explore` as a process, and the pages that tell of it."""

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from gpucnn.cli import app
from gpucnn.errors import ConfigurationError
from tests.explore.test_words import WORDS
from tests.processes import environment

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "explore.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_answers_and_ends_with_its_training(run, tmp_path, by):
    command = [sys.executable, "-m", "gpucnn", "explore", "--run", str(run), "--no-browser"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        address = urlsplit(process.stdout.readline().strip())
        assert address.hostname == "127.0.0.1" and len(address.path) > 30
        connection = http.client.HTTPConnection(address.netloc, timeout=120)
        connection.request("GET", address.path)
        assert b"<title>gpucnn explore</title>" in connection.getresponse().read()
        connection.request("POST", f"{address.path}api/status", body=b"{}")
        assert b'"four-epochs"' in connection.getresponse().read()
        connection.request("POST", f"{address.path}api/train", body=b"{}")
        connection.getresponse().read()
        connection.close()
        deadline = time.monotonic() + 120
        while not (begun := list(tmp_path.glob("runs/*/metrics.jsonl"))):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(by)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode in ((0, 130) if by == signal.SIGINT else (143,)), err
    assert out == "" and "Traceback" not in err
    lock = begun[0].with_name("run.lock")
    if lock.exists():  # it stays where its process was ended
        with pytest.raises(ProcessLookupError):
            os.kill(int(lock.read_text().split()[1]), 0)


def test_a_run_that_is_none_is_refused(tmp_path):
    command = [sys.executable, "-m", "gpucnn", "explore", "--no-browser", "--run", str(tmp_path / "none")]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert "is no folder" in ended.stderr and ended.stderr.count("\n") == 1


def test_a_name_that_is_used_again_is_the_lists(tmp_path, monkeypatch):
    """Of a run that was there when the page was opened and was removed meanwhile: it was listed twice."""
    made = []

    def server(folders, new_run, **_):
        made.extend((folders, new_run))
        raise ConfigurationError("that will do")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpucnn.explore.server.Server", server)
    run = tmp_path / "runs" / "explore-1"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    assert CliRunner().invoke(app, ["explore", "--no-browser"]).exit_code == 2
    (folder,), new_run = made
    shutil.rmtree(folder)
    assert new_run() == folder


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize(("stream", "reason"), [(">&-", "it is closed"), (">/dev/full", "No space left on device")])
def test_an_address_that_cannot_be_printed(tmp_path, stream, reason):
    """As of a program that is started without streams: it ended in a traceback of the server."""
    command = f'"{sys.executable}" -m gpucnn explore --no-browser {stream}'
    ended = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    said = f"gpucnn: the results cannot be written to standard output: {reason}"
    assert ended.stderr.splitlines()[-1] == said and "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["starlette", "uvicorn"])
def test_a_missing_package_is_told_in_a_sentence(name, tmp_path):
    code = f"import sys; sys.modules[{name!r}] = None; from gpucnn.__main__ import main; main()"
    command = [sys.executable, "-c", code, "explore", "--no-browser"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr == (f"gpucnn: the page needs {name}, which is not installed: pip install starlette uvicorn\n")


def test_the_walk_shows_every_picture_and_each_is_small():
    shown = set(re.findall(r"!\[[^]]+\]\((explore/[a-z]+\.png)\)", PAGE))
    assert shown == {f"explore/{file.name}" for file in (DOCS / "explore").iterdir()}
    for name in shown:
        assert (DOCS / name).stat().st_size < 100_000


def test_the_walk_names_what_is_on_the_page():
    words = {english for english, _ in WORDS.values()}
    for name in re.findall(r'"([A-Z][^"]+)"', PAGE):
        name = name.replace("\n", " ")
        assert any(text.startswith(name) for text in words), name
