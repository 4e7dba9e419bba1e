"""What other systems lack: a process without POSIX's names trains, resumes, saves and predicts, to the same bits."""

import os
import subprocess
import sys
import types

import pytest

from gpucnn import storage
from gpucnn.errors import ConfigurationError
from gpucnn.sweep import Plan
from tests.processes import environment, finish, start

# Windows has none of these modules, functions and constants, and locks files in its own way.
WITHOUT_POSIX = """
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

MODULES = "fcntl resource termios tty pty pwd grp syslog".split()
for name in MODULES:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Missing())
for name in '''fork forkpty register_at_fork sched_getaffinity sched_setaffinity geteuid getuid getegid getgid
    getloadavg fchmod fchown chown lchown mkfifo sysconf statvfs fstatvfs pread pwrite posix_fallocate getpgid setsid
    uname nice O_CLOEXEC O_NONBLOCK O_NOCTTY O_NOFOLLOW O_DIRECTORY O_SYNC'''.split():
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGALRM", "SIGUSR1", "SIGPIPE", "SIGCHLD"):
    delattr(signal, name)

locked = set()

def locking(handle, mode, length):
    if os.fstat(handle).st_ino in locked:
        raise PermissionError(13, "Permission denied")
    locked.add(os.fstat(handle).st_ino)

windows = types.SimpleNamespace(**{**vars(os), "name": "nt"})
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
for module in (gpucnn.storage, gpucnn.cache):
    module.os = windows
"""
TRAIN = """
class Stop(Callback):
    def on_epoch_end(self, trainer, record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

images, labels = small.data()
folder = Path(FOLDER)
try:
    small.trainer(folder, backend="numba", callbacks=[Stop()]).fit(images, labels, 3)
except KeyboardInterrupt:
    pass
locked = globals().get("locked", set())
locked.clear()  # as when that process had ended
trainer = small.trainer(folder, backend="numba")
trainer.fit(images, labels, 3, resume=True)
run = load_run(folder, model=small.model())
print(json.dumps([run.model.weights_sha256(), len(run.history), run.model.predict(images[:3]).tobytes().hex()]))
"""
IMPORTS = """
import json, os, signal, sys, types
import multiprocessing.synchronize, matplotlib.figure, numba, sklearn.datasets, subprocess  # they look for msvcrt
from pathlib import Path
import gpucnn.cache, gpucnn.storage
from gpucnn.training import Callback, load_run
from tests.training import small
"""


def test_without_posix_the_bits_are_the_same(tmp_path):
    plain, other = (
        finish(start(f"{IMPORTS}\nFOLDER = {str(tmp_path / name)!r}\n{change}\n{TRAIN}"))
        for name, change in (("plain", ""), ("other", WITHOUT_POSIX))
    )
    assert plain == other and plain[1] == 3


# The pieces of a kernel that are written for a processor: the clock, and how a thread rests.
CLOCK = """
import llvmlite.binding as llvm
from llvmlite import ir
from gpucnn.kernels.numba.addresses import cycles, rest

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()  # and no parser: numba has none either
module = ir.Module()
module.triple = TRIPLE
context = types.SimpleNamespace(get_dummy_value=lambda: None)
builder = ir.IRBuilder(ir.Function(module, ir.FunctionType(ir.IntType(64), []), "clock").append_basic_block())
rest._defn(None)[1](context, builder, None, [])
builder.ret(cycles._defn(None)[1](context, builder, None, []))
try:
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine()
except RuntimeError:
    print("null")
    sys.exit()
parsed = llvm.parse_assembly(str(module))
print(json.dumps([len(machine.emit_object(parsed)), machine.emit_assembly(parsed)]))
"""


@pytest.mark.parametrize("triple", ["aarch64-unknown-linux-gnu", "arm64-apple-darwin23", "aarch64-pc-windows-msvc"])
def test_clock_and_rest_are_compiled_for_arm(triple):
    """LLVM ends the whole process where it cannot."""
    found = finish(start(f"import json, sys, types\nTRIPLE = {triple!r}\n{CLOCK}"))
    if found is None:
        pytest.skip("this llvmlite compiles for no ARM: an older one than 0.50")
    size, assembly = found
    assert size and "cntvct_el0" in assembly.lower() and "isb" in assembly


def test_a_file_that_another_program_reads_is_replaced_soon_on_windows(tmp_path, monkeypatch):
    """There os.replace fails as long as somebody has the file open."""
    calls = []

    def replace(beside, place):
        calls.append(place)
        if len(calls) < 3:
            raise PermissionError(13, "Access is denied")
        os.replace(beside, place)

    monkeypatch.setattr(storage, "os", types.SimpleNamespace(**{**vars(os), "name": "nt", "replace": replace}))
    storage.write_file(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new" and len(calls) == 3
    monkeypatch.setattr(storage.os, "name", "posix")
    calls.clear()
    with pytest.raises(ConfigurationError, match="Access is denied"):
        storage.write_file(tmp_path / "a.txt", b"newer")
    assert (tmp_path / "a.txt").read_bytes() == b"new"


def test_a_sweeps_lock_makes_no_link_on_windows(tmp_path, monkeypatch):
    """Without the developer's mode nobody may make one there."""
    study = pytest.importorskip("gpucnn.sweep.study")
    pytest.importorskip("optuna")
    monkeypatch.setattr(study, "os", types.SimpleNamespace(**{**vars(os), "name": "nt"}))
    monkeypatch.setattr(os, "symlink", None)
    assert study.Sweep(tmp_path, Plan(("mlp",), (0.1,), (0,), ())).plan.size() == 1


@pytest.mark.parametrize("encoding", ["cp1252", "cp949"])
def test_tables_where_lines_cannot_be_drawn(encoding):
    done = subprocess.run(
        [sys.executable, "-m", "gpucnn", "backends"],
        env=environment(PYTHONIOENCODING=encoding),
        capture_output=True,
        check=True,
    )
    assert "\\u2500" not in done.stdout.decode(encoding) and "numpy" in done.stdout.decode(encoding)
