"""What Numba-CUDA makes of the kernels, for four generations of GPUs, without a GPU."""

import importlib.metadata
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpucnn.backends.elementwise import ELEMENTWISE
from tests.processes import environment, finish, start

pytestmark = [
    pytest.mark.skipif(
        not {"numba-cuda", "cuda-core", "nvidia-nvvm"}
        <= {d.metadata["Name"] for d in importlib.metadata.distributions()},
        reason="the CUDA compilers are not installed: pip install 'numba-cuda[cu13]' 'cuda-core[cu13]'",
    ),
    pytest.mark.slow,
]

HERE = Path(__file__).parent
CAPABILITIES = [(7, 5), (8, 0), (9, 0), (10, 0)]
# Modules none of whose kernels has any business with float64.
SINGLE = ("conv", "dense", "images", "optimizers", "pool", "random", "resampling", "sums")
# Float instructions that do not round, and so need not say how.
EXACT = {"abs", "ld", "max", "mov", "neg", "selp", "setp", "st"}


@pytest.fixture(scope="module")
def launches():
    """[module, kernel, types of the arguments] of every kernel that the backend launches."""
    script = str(HERE / "simulated.py")
    code = f"import sys, runpy; sys.argv[1:] = ['record']; runpy.run_path({script!r}, run_name='__main__')"
    return finish(start(code, NUMBA_ENABLE_CUDASIM="1"))


@pytest.fixture(scope="module")
def compiled(launches):
    """{(kernel, capability): (instructions, memory)}, and {kernel: instructions} with fma a multiply and an add."""

    def compiler(*given):
        command = [sys.executable, HERE / "compiled.py"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env=environment(NUMBA_ENABLE_CUDASIM="0"), **pipes)
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        return process

    running = [compiler(launches, CAPABILITIES[:2], False), compiler(launches, CAPABILITIES[2:], False)]
    running.append(compiler(launches, [(9, 0)], True))
    rows, more, unfused = (json.loads(process.stdout.read()) for process in running)
    assert [process.wait(60) for process in running] == [0, 0, 0]
    return (
        {(name, tuple(capability)): (counts, memory) for name, capability, counts, memory in [*rows, *more]},
        {name: counts for name, _, counts, _ in unfused},
    )


def test_every_kernel_is_compiled(launches, compiled):
    """None is forgotten: all that is decorated with @kernel was launched, with one set of types each."""
    sources = HERE.parent.parent / "kernels" / "numba_cuda"
    decorated = set()
    for path in sources.glob("*.py"):
        lines = path.read_text().splitlines()
        names = [after.split("def ")[1].split("(")[0] for line, after in itertools.pairwise(lines) if line == "@kernel"]
        decorated |= {(path.stem, name) for name in names}
    decorated |= {("elementwise", name + end) for name in ELEMENTWISE for end in ("", "_gradient")}
    assert len(decorated) > 40
    assert sorted((module, name) for module, name, _ in launches) == sorted(decorated)
    assert {key for key in compiled[0] if key[0] != "contracted"} == {
        (f"{module}.{name}", capability) for module, name in decorated for capability in CAPABILITIES
    }


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_everything_rounds_to_nearest_and_nothing_is_estimated_or_atomic(compiled, capability):
    for (name, other), (counts, _) in compiled[0].items():
        if other != capability or name == "contracted":
            continue
        for instruction in counts:
            operation, *parts = instruction.split(".")
            where = f"{name}: {instruction}"
            assert not {"ftz", "approx", "full"} & set(parts), where
            assert operation not in ("atom", "red", "call"), where
            assert "local" not in parts, where
            if {"f32", "f64"} & set(parts) and operation not in EXACT:
                assert "rn" in parts or (parts[0] in ("rzi", "f64") and operation == "cvt"), where
            assert "f64" not in parts or name.split(".")[0] not in SINGLE, where


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_stack_and_no_spills(compiled, capability):
    none = ["0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"]
    assert [name for (name, other), (_, memory) in compiled[0].items() if other == capability and memory != none] == []


def test_only_written_fmas_are_fused(compiled):
    """With fma replaced, none is left; a kernel that writes a * b + c, the planted error, has one all the same."""
    every, unfused = compiled
    fused = {name for (name, _), (counts, _) in every.items() if any(i.startswith("fma.") for i in counts)}
    assert {
        "resampling.resample_axis",
        "conv.conv",
        "dense.dense",
        "norm.batch_norm",
        "optimizers.sgd",
        "contracted",
    } <= fused
    assert not fused & {
        "pool.avg_pool",
        "elementwise.tanh",
        "norm.product_sums",
        "sums.weight_total",
        "loss.softmax",
        "elementwise.gelu",
        "clip.scale_all",
    }
    left = {name for name, counts in unfused.items() if any(i.startswith(("fma.", "mad.rn")) for i in counts)}
    assert left == {"contracted"}
