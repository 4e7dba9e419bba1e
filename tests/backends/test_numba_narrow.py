"""The same bits from narrower processors: AVX-512 switched off, and code without any fma instruction.

Both run in processes of their own, because Numba and NumPy read what the processor has when they are imported.
"""

import platform

import numpy as np
import pytest

from gpucnn.backends.numba.tiles import accumulators
from tests.processes import finish, start

pytestmark = pytest.mark.slow

WIDE = accumulators() == 24  # what Numba compiles for here
FEATURES = np._core._multiarray_umath.__cpu_features__
DISPATCH = np._core._multiarray_umath.__cpu_dispatch__
# NumPy's names of its code for AVX-512, which change between its versions: it ignores those it does not know.
AVX512 = [name for name in DISPATCH if name.startswith("AVX512") or name == "X86_V4"]

# What the kernels that were used are made of.
ASSEMBLY = """
import gc, json, re
import numpy as np
from gpucnn.backends.numba import tiles
from gpucnn.kernels.numba import compiler
def registers():
    kernels = [k for k in gc.get_objects() if isinstance(k, compiler.Kernel) and k.routines]
    texts = {k.name: k.assembly() for k in kernels}
    found = {name: sorted(set(re.findall(r"[xyz]mm", text))) for name, text in texts.items()}
    fma = sorted(n for n, text in texts.items() if "vfmadd" in text)
    return {"registers": found, "fma": fma, "accumulators": tiles.accumulators()}
"""

CHECK = """
from gpucnn.check import check
report = check(["numpy", "numba"], threads=2)
umath = np._core._multiarray_umath
wide = [name for name in umath.__cpu_dispatch__ if name.startswith(("AVX512", "X86_V4"))]
print(json.dumps({"passed": report["passed"], "differences": report["differences"],
                  "numpy": [name for name in wide if umath.__cpu_features__[name]], **registers()}))
"""

# The bits of one small convolution and its gradients, sums in float64 and a polynomial.
SMALL = """
from gpucnn.backends import get_backend
from gpucnn.check.cases import all_cases
case = next(c for c in all_cases() if str(c).startswith("convolution (subnormal, 3 images of 1x5x4"))
tanh = next(c for c in all_cases() if str(c) == "tanh (random, (33, 7))")
tiles.broadcast_tile, tiles.product_tile = lambda *sizes: (1, 1), lambda *sizes: (1, 1, 1)
backend, exact = get_backend("numba", "exact", threads=1), get_backend("numpy", "exact")
wrong = {}
for one in (case, tanh):
    results, expected = one.run(backend), one.run(exact)
    for name, want in expected.items():
        wrong[f"{one.operation} {name}"] = int((results[name].view(np.uint32) != want.view(np.uint32)).sum())
print(json.dumps({"wrong": wrong, **registers()}))
"""

needs_avx512 = pytest.mark.skipif(not WIDE, reason="no AVX-512 here to switch off: every other test runs without it")


NARROW = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "", "NPY_DISABLE_CPU_FEATURES": " ".join(AVX512)}


@needs_avx512
@pytest.mark.long  # compiles the fifty kernels of gpucnn.check, again each time: about a minute and a half
def test_gpucnn_check_without_avx512(tmp_path):
    """Each kernel is compiled again for 256-bit registers."""
    report = finish(start(ASSEMBLY + CHECK, GPUCNN_CACHE=str(tmp_path), **NARROW))
    assert report["passed"], report["differences"]
    assert report["numpy"] == [], "NumPy still uses AVX-512"
    assert report["accumulators"] == 6
    assert len(report["registers"]) > 40
    used = set().union(*report["registers"].values())
    assert used == {"xmm", "ymm"}, "AVX-512 was not really off"
    assert any(name.startswith("conv ") for name in report["fma"])


# What an ordinary run makes of the convolution, without its gradients.
ORDINARY = """
from gpucnn.backends import get_backend
from gpucnn.geometry import window
tiles.broadcast_tile = lambda *sizes: (1, 1)
backend = get_backend("numba", "exact", threads=1)
x, w = backend.pack(np.ones((3, 1, 5, 4), np.float32)), np.ones((2, 1, 3, 3), np.float32)
backend.conv(x, w, None, window((5, 4), 3, dilation=(2, 1)))
print(json.dumps(registers()))
"""


def small(tmp_path, **settings):
    return finish(start(ASSEMBLY + SMALL, GPUCNN_CACHE=str(tmp_path), **settings))


@needs_avx512
def test_without_avx512(tmp_path):
    report = small(tmp_path, **NARROW)
    assert not any(report["wrong"].values()), report["wrong"]
    assert report["accumulators"] == 6 and report["fma"]
    assert set().union(*report["registers"].values()) == {"xmm", "ymm"}


@needs_avx512
def test_the_ordinary_run_uses_avx512(tmp_path):
    """Else the tests above would show nothing."""
    report = finish(start(ASSEMBLY + ORDINARY, GPUCNN_CACHE=str(tmp_path)))
    (used,) = (used for name, used in report["registers"].items() if name.startswith("conv 1x1"))
    assert "zmm" in used and report["accumulators"] == 24
    assert any(FEATURES[name] for name in AVX512), "NumPy must have something to switch off"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the plainest processor's name is x86's")
def test_without_an_fma_instruction(tmp_path):
    """The plainest x86-64, on which fma is a call of the C library's: one small case, because it is far slower."""
    report = small(tmp_path, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="")
    assert not any(report["wrong"].values()), report["wrong"]
    assert report["fma"] == []
    assert set().union(*report["registers"].values()) == {"xmm"}
