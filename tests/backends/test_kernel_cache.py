"""Compiled kernels on disk: stored, verified, distinguished, and never required."""

import os
import shutil
from pathlib import Path

import pytest

from tests.processes import checkout, finish, start

# Prints the kernels that had to be compiled, and the bits of a few results.
HEAD = """
import json
import numpy as np
from gpucnn.backends import get_backend
from gpucnn.kernels.numba import compiler, conv, elementwise

backend = get_backend("numba", threads=1)  # tells the compiler where to keep kernels
compiled, results = [], {}
compiler.listeners.append(lambda name: name in ("first unit", "next unit", "run calls") or compiled.append(name))
x = np.linspace(-3, 3, 4096, dtype=np.float32)

def run(kernel, *arguments):
    y = np.full(4096, np.nan, np.float32)
    backend._run(kernel, *arguments, y, ())
    results[kernel.name] = y.tobytes().hex()
"""
TAIL = """
print(json.dumps({"compiled": compiled, "results": results}))
"""
MAPS = """
run(elementwise.FORWARD["relu"], x)
run(elementwise.FORWARD["tanh"], x)
run(elementwise.FORWARD["sigmoid"], x)
"""
NAMES = ["relu", "tanh", "sigmoid"]


def maps(cache: Path, root: Path | None = None):
    return finish(start(HEAD + MAPS + TAIL, root, GPUCNN_CACHE=str(cache)))


def files(cache: Path) -> dict[str, Path]:
    """Kernel name to its file, without those that run kernels; names here have no two files and no sign but letters."""
    found = {path.name.rsplit("-", 1)[0]: path for path in (cache / "numba").iterdir()}
    return {name: path for name, path in found.items() if name not in ("first-unit", "next-unit", "run-calls")}


def test_the_second_process_compiles_nothing(tmp_path):
    first, second = maps(tmp_path), maps(tmp_path)
    assert first["compiled"] == NAMES and second["compiled"] == []
    assert first["results"] == second["results"]
    assert sorted(files(tmp_path)) == sorted(NAMES), "one file a kernel, and no temporary one left"
    if os.name == "posix":
        assert (tmp_path / "numba").stat().st_mode & 0o077 == 0, "pickles in it are run: only its owner may write there"


@pytest.mark.slow
def test_a_damaged_file_is_compiled_again(tmp_path):
    first = maps(tmp_path)
    stored = {name: path.read_bytes() for name, path in files(tmp_path).items()}
    files(tmp_path)["relu"].write_bytes(stored["relu"][: len(stored["relu"]) // 2])
    flipped = bytearray(stored["tanh"])
    flipped[len(flipped) // 2] ^= 1
    files(tmp_path)["tanh"].write_bytes(flipped)
    files(tmp_path)["sigmoid"].write_bytes(b"")
    second = maps(tmp_path)
    assert second["compiled"] == NAMES and second["results"] == first["results"]
    # The damaged file was written again. Now the digest in front, of one file: the others stay good.
    stored = files(tmp_path)["tanh"].read_bytes()
    files(tmp_path)["tanh"].write_bytes(bytes([stored[0] ^ 128]) + stored[1:])
    assert maps(tmp_path)["compiled"] == ["tanh"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("kernels/numba/chunks.py", ("CHUNK = 256", "CHUNK = 128")),
        ("kernels/numba/simd.py", ('_select(vec, ">")', '_select(vec, "<")')),
        ("kernels/elementary.py", ("0x1.71547652b82fep+0", "0x1.71547652b82ffp+0")),
    ],
    ids=["kernel", "helper", "coefficients"],
)
def test_an_edited_source_is_compiled_again(tmp_path, name, edit):
    """Whichever file it is: a kernel's own, one it takes helpers from, or the table of coefficients."""
    code = HEAD + "run(elementwise.FORWARD['relu'], x)\n" + TAIL
    settings = {"GPUCNN_CACHE": str(tmp_path / "cache")}
    before = finish(start(code, checkout(tmp_path / "before"), **settings))
    same = finish(start(code, checkout(tmp_path / "same"), **settings))
    after = finish(start(code, checkout(tmp_path / "after", {name: edit}), **settings))
    assert before["compiled"] == ["relu"] and same["compiled"] == [], "the same sources elsewhere are the same kernels"
    assert after["compiled"] == ["relu"]
    assert (after["results"] != before["results"]) == (name == "kernels/numba/simd.py")


@pytest.mark.slow
def test_an_edited_source_in_an_archive_is_compiled_again(tmp_path):
    """As Spark's --py-files import it: there is no folder to read the sources from."""
    code, found = HEAD + "run(elementwise.FORWARD['relu'], x)\n" + TAIL, []
    edit = {"kernels/numba/simd.py": ('_select(vec, ">")', '_select(vec, "<")')}
    for name, edits in (("before", None), ("after", edit)):
        folder = checkout(tmp_path / name, edits)
        (folder / "kernels").rename(folder / "gpucnn" / "kernels")  # as in a wheel
        archive = shutil.make_archive(str(folder), "zip", folder)
        found.append(finish(start(code, tmp_path, GPUCNN_CACHE=str(tmp_path / "cache"), PYTHONPATH=archive)))
    before, after = found
    assert before["compiled"] == after["compiled"] == ["relu"] and before["results"] != after["results"]


@pytest.mark.slow
def test_another_processor_compiles_its_own(tmp_path):
    code, cache = HEAD + "run(elementwise.FORWARD['relu'], x)\n" + TAIL, str(tmp_path)
    narrow = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    first, second = finish(start(code, GPUCNN_CACHE=cache)), finish(start(code, GPUCNN_CACHE=cache, **narrow))
    assert first["compiled"] == second["compiled"] == ["relu"] and first["results"] == second["results"]
    assert finish(start(code, GPUCNN_CACHE=cache))["compiled"] == []


@pytest.mark.slow
def test_other_settings_of_numba_compile_their_own(tmp_path):
    """A program may set them for functions of its own: kernels that look at bounds are slow."""
    code, cache = HEAD + "run(elementwise.FORWARD['relu'], x)\n" + TAIL, str(tmp_path)
    checked = finish(start("import numba\nnumba.config.BOUNDSCHECK = 1\n" + code, GPUCNN_CACHE=cache))
    plain = finish(start(code, GPUCNN_CACHE=cache))
    assert checked["compiled"] == plain["compiled"] == ["relu"] and checked["results"] == plain["results"]


# Large tiles, whose results show it when one is called for the other.
TILES = """
from gpucnn.backends import Batch
from gpucnn.backends.numba import tiles
from gpucnn.geometry import window
b, exact = get_backend("numba", "exact", threads=1), get_backend("numpy", "exact")
rng = np.random.default_rng(0)
x, dy = (rng.standard_normal((16, c, 5, s)).astype(np.float32) for c, s in ((8, 15), (16, 13)))
window = window((5, 15), (1, 3))

def use(tile):
    tiles.gradient_row_tile, tiles.product_tile = lambda *sizes: None, lambda *sizes: tile
    dw = np.full((16, 8, 1, 3), 99, np.float32)
    lanes = (Batch(np.moveaxis(a, 0, -1)[None].copy(), 16, b) for a in (dy, x))
    b.conv_weight_gradient(*lanes, window, 1, dw)
    results[str(tile)] = dw.tobytes().hex()

def expect():
    dw = np.zeros((16, 8, 1, 3), np.float32)
    exact.conv_weight_gradient(exact.pack(dy), exact.pack(x), window, 1, dw)
    results["expected"] = dw.tobytes().hex()
"""


@pytest.mark.slow
def test_two_processes_that_compile_at_once(tmp_path):
    """Each compiles another tile of one kernel, and a third process loads both.

    Numba restarts its numbers of functions in each process: a part of both tiles had one symbol and the third process
    called one for the other, until compiler.py let the numbers start at random. (Where all parts are inlined, nothing
    is left to be confused, and this test passes without that line too.)
    """
    cache = {"GPUCNN_CACHE": str(tmp_path)}
    one = start(HEAD + TILES + "use((4, 4, 1))" + TAIL, **cache)
    two = start(HEAD + TILES + "use((4, 2, 3))" + TAIL, **cache)
    one, two = finish(one), finish(two)
    assert any("4x4x1" in name for name in one["compiled"]) and any("4x2x3" in name for name in two["compiled"])
    both = finish(start(HEAD + TILES + "use((4, 4, 1)); use((4, 2, 3)); expect()" + TAIL, **cache))
    assert both["compiled"] == []
    expected = both["results"].pop("expected")
    assert both["results"] == {"(4, 4, 1)": expected, "(4, 2, 3)": expected} == one["results"] | two["results"]


def test_processes_that_need_the_same_kernels_compile_each_once(tmp_path):
    """As those of a sweep, or of mpirun: twenty of them took twenty times as long."""
    started = [start(HEAD + MAPS + TAIL, GPUCNN_CACHE=str(tmp_path)) for _ in range(3)]
    done = [finish(process) for process in started]
    assert sorted(name for one in done for name in one["compiled"]) == sorted(NAMES)
    assert done[0]["results"] == done[1]["results"] == done[2]["results"]
    assert sorted(files(tmp_path)) == sorted(NAMES), "no lock is left"


@pytest.mark.slow
def test_a_folder_that_cannot_be_written(tmp_path):
    """A file where the folder should be stops even root, whom permissions do not."""
    (tmp_path / "file").write_text("in the way")
    code, cache = HEAD + "run(elementwise.FORWARD['relu'], x)\n" + TAIL, {"GPUCNN_CACHE": str(tmp_path / "file")}
    first, second = finish(start(code, **cache)), finish(start(code, **cache))
    assert first["compiled"] == second["compiled"] == ["relu"] and first["results"] == second["results"]
    assert (tmp_path / "file").read_text() == "in the way"
