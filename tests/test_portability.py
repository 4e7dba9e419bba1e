"""What other systems lack: a process without POSIX's names trains, resumes, saves and predicts, to the same bits."""

import pytest

from tests.processes import finish, start

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


# The clock is the one piece of a kernel that is written for a processor.
CLOCK = """
import llvmlite.binding as llvm
from llvmlite import ir
from gpucnn.kernels.numba.addresses import cycles

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()  # and no parser: numba has none either
module = ir.Module()
module.triple = TRIPLE
signature, generate = cycles._defn(None)
builder = ir.IRBuilder(ir.Function(module, ir.FunctionType(ir.IntType(64), []), "clock").append_basic_block())
builder.ret(generate(None, builder, signature, []))
try:
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine()
except RuntimeError:
    print("null")
    sys.exit()
parsed = llvm.parse_assembly(str(module))
print(json.dumps([len(machine.emit_object(parsed)), machine.emit_assembly(parsed)]))
"""


@pytest.mark.parametrize("triple", ["aarch64-unknown-linux-gnu", "arm64-apple-darwin23", "aarch64-pc-windows-msvc"])
def test_the_clock_is_compiled_for_arm(triple):
    """LLVM ends the whole process where it cannot."""
    found = finish(start(f"import json, sys\nTRIPLE = {triple!r}\n{CLOCK}"))
    if found is None:
        pytest.skip("this llvmlite compiles for no ARM: an older one than 0.50")
    size, assembly = found
    assert size and "cntvct_el0" in assembly.lower()
