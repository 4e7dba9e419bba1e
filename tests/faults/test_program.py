"""The program when its surroundings fail: Ctrl-C at any moment, streams that are full or closed, wrong folders."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from gpucnn.errors import GpucnnError
from gpucnn.training import load_run
from tests.processes import PACKAGE

pty = pytest.importorskip("pty", reason="terminals of POSIX")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and devices of POSIX")

PROGRAM = [sys.executable, "-m", "gpucnn"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "COLUMNS": "160"}
ENDLESS = ["train", "--epochs", "1000000", "--schedule", "constant", "--model", "mlp", "--hidden", "8"]
SHORT = ["train", "--epochs", "1", "--model", "mlp", "--hidden", "8"]


def run(*arguments, **settings):
    settings = {"env": ENVIRONMENT, "stderr": subprocess.PIPE, "text": True, "timeout": 300, **settings}
    return subprocess.run([*PROGRAM, *map(str, arguments)], check=False, **settings)


def one_sentence(result):
    assert result.returncode == 2, result.stderr
    notes = ("epoch", "training", "compiling", "using", "testing")
    lines = [line for line in result.stderr.splitlines() if not line.startswith(notes) and "no run yet" not in line]
    assert len(lines) == 1 and lines[0].startswith("gpucnn: "), result.stderr
    return lines[0]


def interrupted(process, stderr):
    assert process.returncode == 130, (process.returncode, stderr)
    assert "Traceback" not in stderr and "interrupted" in stderr


@contextlib.contextmanager
def started(command, **settings):
    """A process that is gone afterwards, whatever failed: leaving a Popen waits for one that Ctrl-C did not end."""
    with subprocess.Popen(command, env=ENVIRONMENT, **settings) as process:
        try:
            yield process
        finally:
            process.kill()


# When the interpreter has begun to run the program; before that, Ctrl-C is Python's own.
STARTED = "import sys, gpucnn.__main__\nsys.stdout.write('x'); sys.stdout.flush()\ngpucnn.__main__.main()"


@pytest.mark.parametrize("delay", [0, 0.01, 0.1, 0.4, 1])
def test_ctrl_c_while_it_starts(tmp_path, delay):
    """In the middle of its imports."""
    command = [sys.executable, "-c", STARTED, *ENDLESS, "--run", str(tmp_path / "run")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started(command, **pipes) as process:
        assert process.stdout.read(1) == "x"
        time.sleep(0.02 + delay)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    interrupted(process, stderr)


def test_ctrl_c_in_a_finalizer_is_not_lost():
    """Where Python drops exceptions, as in the callbacks of its import system."""
    code = """
import signal
from gpucnn import interrupts

class Late:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

interrupts.leave_at_once()
with interrupts.one_chance():
    Late()
    print("went on")
"""
    with started([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        stdout, stderr = process.communicate(timeout=60)
    interrupted(process, stderr)
    assert not stdout


@pytest.mark.parametrize(("by", "ignored", "code"), [("TERM", "", 143), ("HUP", "", 129), ("HUP", "HUP", 0)])
def test_what_ends_a_process_that_has_started_others(by, ignored, code):
    """A terminal that closes too, unless nohup said otherwise: it has to end them."""
    program = f"""
import signal
from gpucnn import interrupts

signal.signal(signal.SIGHUP, signal.SIG_{"IGN" if ignored else "DFL"})
before = signal.getsignal(signal.SIG{by})
try:
    with interrupts.terminated():
        signal.raise_signal(signal.SIG{by})
finally:
    print("ended the others", signal.getsignal(signal.SIG{by}) == before)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "ended the others True\n", "")


@pytest.mark.parametrize(
    "again", [0, pytest.param(0.05, marks=pytest.mark.slow), pytest.param(0.001, marks=pytest.mark.long)]
)
def test_ctrl_c_twice_keeps_the_run(tmp_path, again):
    folder = tmp_path / "run"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started([*PROGRAM, *ENDLESS, "--run", str(folder)], **pipes) as process:
        deadline = time.monotonic() + 240
        while not (folder / "checkpoint.safetensors").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        time.sleep(again)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    interrupted(process, stderr)
    assert load_run(folder).epoch >= 1
    assert run("evaluate", "--run", folder, stdout=subprocess.PIPE).returncode == 0


def test_ctrl_c_in_a_terminal(tmp_path):
    """Where a bar hides the cursor."""
    terminal, inside = pty.openpty()
    command = [*PROGRAM, *ENDLESS, "--run", str(tmp_path / "run")]
    with started(command, stderr=inside, stdout=subprocess.DEVNULL) as process:
        os.close(inside)
        said = b""
        while b"epoch 3/" not in said:
            said += os.read(terminal, 1 << 16)
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        try:
            while piece := os.read(terminal, 1 << 16):
                said += piece
        except OSError:  # the other end is closed
            pass
        assert process.wait(60) == 130
    os.close(terminal)
    assert said.rfind(b"\x1b[?25h") > said.rfind(b"\x1b[?25l"), "the cursor is shown again"
    assert b"Traceback" not in said


def test_a_terminal_that_goes_away(tmp_path):
    """A lost connection, of which SIGHUP does not tell the process: training goes on, and its results are written."""
    there, inside = pty.openpty()
    command = [*PROGRAM, *SHORT, "--epochs", "100", "--json", "--run", str(tmp_path / "run")]
    with started(command, stderr=inside, stdout=subprocess.PIPE, start_new_session=True) as process:
        os.close(inside)
        said = b""
        while b"epoch 3/" not in said:
            said += os.read(there, 1 << 16)
        os.close(there)
        assert json.loads(process.stdout.read())["epochs"] == 100


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")
def test_standard_output_is_full(tmp_path):
    for number, arguments in enumerate(
        ([*SHORT, "--run", tmp_path / "run"], ["summary"], ["backends"], ["data", "list"])
    ):
        for form in ([], ["--json"]):
            if number == 0:
                arguments = [*SHORT, "--run", tmp_path / f"run{len(form)}"]
            with open("/dev/full", "w") as full:
                text = one_sentence(run(*arguments, *form, stdout=full))
            assert text.endswith("the results cannot be written to standard output: No space left on device")
    assert load_run(tmp_path / "run0").epoch == 1, "what was trained is kept"
    with open("/dev/full", "w") as full:
        assert one_sentence(run("--version", stdout=full))
        assert run("--help", stdout=full).stderr.count("\n") == 1


@pytest.mark.slow
def test_standard_output_is_closed(tmp_path):
    command = " ".join([*PROGRAM, *SHORT, "--run", str(tmp_path / "run"), ">&-"])
    result = subprocess.run(command, shell=True, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, check=False)
    assert one_sentence(result).endswith("standard output: it is closed")
    assert load_run(tmp_path / "run").epoch == 1
    with subprocess.Popen(
        [*PROGRAM, "summary"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        stderr = process.stderr.read().decode()
    assert process.returncode == 2 and stderr.endswith("standard output: Broken pipe\n") and stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_nobody_listens_to_standard_error(tmp_path, stderr):
    """Training goes on: what it says on the way is no result."""
    command = " ".join([*PROGRAM, *SHORT, "--json", "--run", str(tmp_path / "run"), stderr])
    result = subprocess.run(command, shell=True, env=ENVIRONMENT, stdout=subprocess.PIPE, check=False)
    assert json.loads(result.stdout)["epochs"] == 1
    assert result.returncode in (0, 2) and load_run(tmp_path / "run").epoch == 1


@pytest.mark.parametrize("stream", ["0<&-", "1>&-", "2>&-"])
def test_closed_streams_are_none_to_what_it_starts_either(stream):
    """A worker of a sweep whose standard error was closed printed what it said among the results."""
    code = """
import subprocess, sys
from gpucnn.cli.output import ready
ready()
child = "import os; [os.fstat(number) for number in range(3)]"
raise SystemExit(subprocess.run([sys.executable, "-c", child]).returncode)
"""
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} {stream}"
    assert subprocess.run(command, shell=True, env=ENVIRONMENT, check=False).returncode == 0


@pytest.mark.slow
def test_a_best_file_that_is_a_folder(tmp_path):
    result = run(*SHORT, "--validation", "0.2", "--run", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    (tmp_path / "run" / "best.safetensors").unlink()
    (tmp_path / "run" / "best.safetensors").mkdir()
    for command in (["evaluate", "--weights", "best"], ["train", "--resume"]):
        one_sentence(run(*command, "--run", tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--batch-size", "1" + "0" * 9, "--epochs", "1", "--model", "mlp", "--hidden", "8"],
        ["train", "--hidden", "1" + "0" * 30, "--model", "mlp"],
        ["train", "--hidden", "10000000,10000000", "--model", "mlp"],
        ["train", "--epochs", "1" + "0" * 300],
        ["train", "--shift", "1" + "0" * 30],
        ["train", "--lr", "1" + "0" * 400],
        ["train", "--seed", "1" + "0" * 30],
        ["train", "--threads", "1" + "0" * 30],
        ["summary", "--classes", "1" + "0" * 30],
        ["summary", "--input-shape", "1x" + "9" * 30 + "x1"],
        ["summary", "--input-shape", "1x16777216x16777216"],
        ["summary", "--input-shape", "1x" + "9" * 5000 + "x1"],
        ["bench", "--batch-size", "1" + "0" * 30],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_sizes_with_too_many_digits(tmp_path, arguments):
    """More images a step than there are images are all of them; anything else is refused."""
    result = run(*arguments, cwd=tmp_path)
    assert "Traceback" not in result.stderr
    if arguments[1] == "--batch-size" and arguments[0] == "train":
        assert result.returncode == 0
    else:
        assert result.returncode == 2


def test_names_that_steer_a_terminal_are_shown_as_what_they_are(tmp_path):
    name = tmp_path / "a\x1b[31m\nb\udcff"
    result = run("train", "--data", name, stdout=subprocess.PIPE)
    assert "\x1b" not in result.stderr and "\\x1b[31m" in one_sentence(result)


def test_every_kind_of_error_of_gpucnn_is_one_sentence():
    """The command line turns them all into exit code 2; none is left out of their family."""
    import gpucnn.errors

    kinds = [kind for kind in vars(gpucnn.errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, GpucnnError) for kind in kinds) and len(kinds) > 6


def test_only_one_module_opens_files_for_writing():
    """Whole files, regular ones alone: gpucnn.storage sees to both, so nothing else may write."""
    writing = re.compile(
        r"""open\([^)\n]*["'][rwax]b?\+?["'](?<!["']rb["'])|\.open\(|os\.open\(|write_text|write_bytes|os\.replace|\.rename\("""
        r"""|\.touch\(|unlink\(|rmtree|os\.remove|mkstemp|NamedTemporary|np\.save|savefig\((?!content)|save_file"""
    )
    allowed = {
        "storage.py": None,
        "emulation/compiler.py": {"source.write_text", "os.replace(built"},  # g++ writes in a folder of its own
        "training/run.py": {"entry.unlink(", "self.best.unlink("},  # what a run itself wrote
        "data/fetch.py": {"part.unlink("},
        "data/images.py": {"Image.open(stream"},
        "data/cifar.py": {"tarfile.open("},
        "data/npz.py": {"archive.open(member", "that np.savez does not use"},
        "cli/explore.py": {"webbrowser.open("},
        "explore/convolution.py": {"Image.open(BytesIO"},
        "backends/numba/ahead.py": {"os.open(os.devnull"},
        "cli/output.py": {"os.open(os.devnull", "os.fdopen(2"},
        "models/pytorch.py": {"safetensors.torch.save_file"},  # said to the user
    }
    for path in PACKAGE.rglob("*.py"):
        name = str(path.relative_to(PACKAGE))
        if allowed.get(name, "") is None:
            continue
        for line in path.read_text().splitlines():
            if writing.search(line):
                assert any(part in line for part in allowed.get(name, ())), f"{name}: {line.strip()}"
