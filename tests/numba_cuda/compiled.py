"""Compiling the Numba-CUDA kernels for absent devices: run as a script, in a process without the simulator.

Reads from standard input the launches that simulated.record found, and prints what the compiler made of them.
"""

import importlib
import json
import re
import sys
from types import SimpleNamespace

import numba.cuda.dispatcher
from cuda.core import Linker, LinkerOptions, ObjectCode
from numba import cuda, types
from numba.cuda import libdevice

# Device functions are typed for the device at hand, of which only the capability is asked: pretend there is one.
numba.cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(7, 5))


def type_of(name: str):
    """The Numba type that simulated.py wrote as `name`."""
    if name.endswith("]"):
        dtype, axes = name[:-1].split("[")
        return types.Array(getattr(types, dtype), int(axes), "C")
    if "x" in name:
        kind, _, count = name.partition("x")
        return types.UniTuple(getattr(types, kind), int(count)) if int(count) else types.Tuple(())
    return types.boolean if name == "bool" else getattr(types, name)


def instructions(ptx: str) -> list[str]:
    """The instructions of a PTX source, without operands and predicates."""
    return re.findall(r"^\s+(?:@!?%p\d+\s+)?([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+|bra|ret)\b", ptx, re.MULTILINE)


def kernel_of(module, name: str):
    """A module's kernel by its name: an activation's is in a dictionary."""
    made = [*getattr(module, "FORWARD", {}).values(), *getattr(module, "GRADIENT", {}).values()]
    return next((kernel for kernel in made if kernel.py_func.__name__ == name), None) or getattr(module, name)


def ptx_of(function, arguments, capability) -> str:
    return cuda.compile(function, types.void(*arguments), device=False, abi="numba", cc=capability)[0]


def memory_of(ptx: str, capability) -> list[str]:
    """The assembler's report of the kernel's stack and spills, from its log."""
    options = LinkerOptions(arch="sm_{}{}".format(*capability), ptxas_options=["-v"], verbose=True)
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=options)
    linker.link("cubin")
    return re.findall(r"\d+ bytes stack frame, \d+ bytes spill stores, \d+ bytes spill loads", linker.get_info_log())


def contracted(a, b, c):
    """Must not be written: the compiler may fuse it, and divide inexactly."""
    i = cuda.grid(1)
    a[i] = a[i] * b[i] + c[i]


def report(launches, capabilities, unfused: bool):
    """[kernel, capability, {instruction: times}, memory] of each; with `unfused`, fma is made a multiply and an add."""
    if unfused:
        arithmetic = importlib.import_module("gpucnn.kernels.numba_cuda.arithmetic")
        arithmetic.fma = cuda.jit(device=True, forceinline=True)(
            lambda a, b, c: libdevice.fadd_rn(libdevice.fmul_rn(a, b), c)
        )
    rows = []
    for module, name, arguments in [*launches, (None, "contracted", ["float32[1]"] * 3)]:
        function = contracted
        if module:
            function = kernel_of(importlib.import_module(f"gpucnn.kernels.numba_cuda.{module}"), name).py_func
        for capability in map(tuple, capabilities):
            ptx = ptx_of(function, [type_of(a) for a in arguments], capability)
            counts = {}
            for instruction in instructions(ptx):
                counts[instruction] = counts.get(instruction, 0) + 1
            memory = None if unfused else memory_of(ptx, capability)
            rows.append([f"{module}.{name}" if module else name, capability, counts, memory])
    return rows


if __name__ == "__main__":
    print(json.dumps(report(*json.load(sys.stdin))))
