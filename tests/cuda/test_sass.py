"""The machine code of the models' kernels: no local memory, nothing flushed to zero, no atomic on floats.

PTX says what NVRTC meant; ptxas has the last word. Needs nvdisasm, from CUDA's toolkit or `pip install
nvidia-cuda-nvdisasm`.
"""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gpucnn.backends.cuda import compiler
from tests.cuda.test_compilation import _asked_by, _missing, _networks, _pointwise


def _nvdisasm() -> str | None:
    places = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in places.submodule_search_locations or ()] if places else []
    found = [str(path) for folder in folders for path in folder.glob("*/bin/nvdisasm")]
    return shutil.which("nvdisasm") or next(iter(found), None)


_NEEDED = _missing() or (None if _nvdisasm() else "nvdisasm is not installed: pip install nvidia-cuda-nvdisasm")
pytestmark = [pytest.mark.skipif(_NEEDED is not None, reason=str(_NEEDED)), pytest.mark.slow]
ARCHITECTURE = "sm_90"


def _instructions(code: bytes, folder: Path) -> dict[str, list[str]]:
    """By kernel, and by each function that the compiler adds to it, the instructions without their predicates."""
    cubin = folder / "code.cubin"
    cubin.write_bytes(code)
    text = subprocess.run([_nvdisasm(), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    functions: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if label := re.match(r"(?:\.text\.(\w+)|(\$__internal\w+\$\w+)):", line):
            name = label[1] or f"{name.split(' ')[0]} {label[2]}"
            functions[name] = []
        elif instruction := re.search(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", line):
            functions[name].append(instruction[1])
    return functions


@pytest.fixture(scope="module")
def by_file():
    return _asked_by(lambda b: (_networks(b), _pointwise(b)))


def wrong(functions: dict[str, list[str]]) -> list[str]:
    """Instructions that no kernel should have, with the kernel's name."""
    found = []
    for name, instructions in functions.items():
        root = -100  # where the last estimate of a square root was: its refinement cannot meet a subnormal
        for number, instruction in enumerate(instructions):
            operation = instruction.split()[0]
            root = number if operation == "MUFU.RSQ" else root
            flushes = re.match(r"F(ADD|MUL|FMA|MNMX|SETP|SEL|SET)\S*\.FTZ", operation) is not None
            refines = operation == "FMUL.FTZ" and number - root < 24
            local = re.match(r"(LDL|STL)\b", operation) is not None
            atomic = re.match(r"(ATOM|RED)\w*\..*F(16|32|64)", operation) is not None
            if local or atomic or (flushes and not refines and "$__internal" not in name):
                found.append(f"{name}: {instruction}")
    return found


@pytest.mark.parametrize(
    "file", ["conv.cu", "dense.cu", "norm.cu", "loss.cu", "optimizers.cu", "elementwise.cu", "fused.cu"]
)
def test_nothing_is_flushed_spilled_or_added_atomically(by_file, file, tmp_path):
    made = compiler.translate(file, by_file[file], [f"--gpu-architecture={ARCHITECTURE}"])
    functions = _instructions(made.code, tmp_path)
    assert set(made.symbols.values()) <= set(functions)
    assert wrong(functions) == []


@pytest.mark.parametrize(
    ("statement", "options"),
    [
        ("x[0] = x[0] * x[1];", ["--ftz=true"]),
        ("atomicAdd(x, x[1]);", []),
        ("float v[64]; for (int i = 0; i < 64; i++) v[int(x[i]) & 63] = x[i]; x[0] = v[int(x[1]) & 63];", []),
    ],
)
def test_the_check_finds_what_it_should(statement, options, tmp_path):
    (tmp_path / "bad.cu").write_text(f"__global__ void bad(float* x) {{ {statement} }}\n")
    options = [f"--gpu-architecture={ARCHITECTURE}", *options]
    made = compiler.translate("bad.cu", ["bad"], options, folder=tmp_path)
    assert wrong(_instructions(made.code, tmp_path))
