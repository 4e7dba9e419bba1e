"""What NVRTC made of a kernel, executed on the CPU: its PTX, translated to C++ instruction by instruction.

The emulation proper compiles a kernel's source with g++, so it says nothing about NVRTC, which is free to fuse a
product with a sum, to reorder, or to get something wrong. Here the same runtime executes NVRTC's own output. The
translation knows nothing about kernels: an instruction becomes a call of the function of that name in ptx_host.h, and
one that is not there (an approximate division, an atomic addition of floats) does not compile.
"""

import ctypes
import re

from gpucnn.backends.cuda.compiler import translate
from gpucnn.backends.cuda.launcher import SOURCES
from gpucnn.emulation import compiler
from gpucnn.emulation.launcher import EmulatedKernel, EmulatedLauncher
from gpucnn.errors import BackendError

_TYPES = {
    **{f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)},
    **{f"{kind}{bits}": f"uint{bits}_t" for kind in "ub" for bits in (8, 16, 32, 64)},
    **{"f32": "float", "f64": "double", "pred": "bool"},
}
_SIZES = {kind: 1 if kind == "pred" else int(kind[1:]) // 8 for kind in _TYPES}
_REGISTERS = {"pred": "bool", "b16": "uint16_t", "b32": "uint32_t", "b64": "uint64_t", "f32": "float", "f64": "double"}
_SPECIAL = {"tid": "threadIdx", "ctaid": "blockIdx", "ntid": "blockDim", "nctaid": "gridDim"}
# What decides neither the value nor the type of an access to memory.
_HINTS = {"global", "nc", "volatile", "relaxed", "gpu", "sys", "weak", "ca", "cg", "cs", "lu", "cv", "wb", "wt"}


class PtxLauncher(EmulatedLauncher):
    """The emulation's launcher of kernels as NVRTC translates them for `architecture` ("compute_80")."""

    device = "CPU, emulating a GPU's compiled kernels thread by thread"

    def __init__(self, order="forward", guard: str | None = "end", architecture: str = "compute_80", folder=SOURCES):
        super().__init__(order, guard=guard, folder=folder)
        self._architecture = architecture

    def kernel(self, file: str, expression: str = "") -> EmulatedKernel:
        key = file, expression
        if key not in self._kernels:
            options = [f"--gpu-architecture={self._architecture}"]
            made = translate(file, [expression], options, ptx=True, folder=self._folder)
            text = to_cpp(made.code.decode().rstrip("\0"), made.symbols[expression])
            library = ctypes.CDLL(str(compiler.build_text(text, f"ptx-{file}-{expression}")))
            library.cuh_bind(ctypes.c_void_p(self._runtime.cuh_runtime()))
            self._kernels[key] = EmulatedKernel(expression, library)
        return self._kernels[key]


def to_cpp(ptx: str, symbol: str) -> str:
    """The C++ of kernel `symbol` of a PTX module. Raises BackendError for what it does not know."""
    head, parameters, body = _entry(ptx, symbol)
    if ".local" in body:
        raise BackendError(f"{symbol} uses local memory")
    shared, offset = {}, 0
    arrays = re.findall(r"\.shared \.align (\d+) \.(\w+) ([\w$]+)(?:\[(\d+)\])?;", head + body)
    for align, kind, name, count in arrays:
        offset = -(-offset // int(align)) * int(align)
        shared[name] = offset
        offset += _SIZES[kind] * int(count or 1)
    sizes = [_SIZES[kind] * int(count or 1) for kind, count in parameters.values()]
    names = {name: f"(uint64_t)a[{number}]" for number, name in enumerate(parameters)}
    names |= {name: str(place) for name, place in shared.items()}
    registers = re.findall(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>;", body)
    declared = [f"  {_REGISTERS[kind]} {', '.join(f'{n}{i}' for i in range(int(c)))};" for kind, n, c in registers]
    declared += [f"  {_REGISTERS[kind]} {n};" for kind, n in re.findall(r"\.reg \.(\w+)\s+%(\w+);", body)]
    code = [_statement(line.strip(), names) for line in re.split(r"(?<=[;:{}])\s", _without_comments(body))]
    return "\n".join(
        [
            '#include "ptx_host.h"',
            f'static unsigned char shared[{max(offset, 1)}] __attribute__((section(".bss._ZZptx"), aligned(16)));',
            "static void run(void** a) {",
            *declared,
            *filter(None, code),
            "}",
            f"static const int sizes[] = {{{', '.join(map(str, [*sizes, 0]))}}};",
            _INTERFACE,
        ]
    )


_INTERFACE = """
extern "C" char cuh_shared_first[] __attribute__((weak)), cuh_shared_last[] __attribute__((weak));  // from shared.ld
extern "C" void cuh_bind(cuh::Context* context) { cuh_context = context; }
extern "C" void cuh_kernel(void** a) { run(a); }
extern "C" const int* cuh_sizes() { return sizes; }
extern "C" char* cuh_first() { return cuh_shared_first; }
extern "C" char* cuh_last() { return cuh_shared_last; }
"""


def _without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*", "", text)


def _entry(ptx: str, symbol: str) -> tuple[str, dict[str, tuple[str, str]], str]:
    """(what stands before all functions, the parameters' types and lengths by name, the body) of a kernel."""
    found = re.search(rf"\.entry {re.escape(symbol)}\s*\((.*?)\)(.*?)\n\{{\n(.*?)\n\}}", ptx, re.S)
    if not found:
        raise BackendError(f"the compiler's output has no kernel {symbol}")
    pattern = r"\.param (?:\.align \d+ )?\.(\w+) (?:\.ptr[^,\n]*? )?([\w$]+)(?:\[(\d+)\])?"
    parameters = {name: (kind, count) for kind, name, count in re.findall(pattern, found[1])}
    return re.split(r"\.(?:visible|weak) ", ptx, maxsplit=1)[0], parameters, found[3]


def _statement(line: str, names: dict[str, str]) -> str:
    """One statement as C++, "" for a declaration."""
    if not line or line[0] in ".{}":
        return ""
    if line.endswith(":"):
        return f"{_label(line[:-1])}:;"
    guard = ""
    if line[0] == "@":
        condition, line = line.split(None, 1)
        guard = f"if ({condition[1:].replace('%', '')}) "
    opcode, _, rest = line.rstrip(";").partition("\t") if "\t" in line else line.rstrip(";").partition(" ")
    return f"  {guard}{{ {_instruction(opcode.strip().split('.'), rest.strip(), names)}; }}"


def _instruction(opcode: list[str], rest: str, names: dict[str, str]) -> str:
    name, operands = opcode[0], [part.strip() for part in re.split(r",\s*(?![^{]*\})", rest)] if rest else []
    if name == "bra":
        return f"goto {_label(operands[0])}"
    if name in ("ret", "exit"):
        return "return"
    if name in ("ld", "st"):
        return _access(opcode, operands, names)
    if opcode[:2] == ["bar", "warp"]:
        return f"__syncwarp(uint32_t({_value(operands[0], names)}))"
    if name in ("bar", "barrier", "membar", "fence"):
        return "barrier()" if name.startswith("bar") else ""
    values = [_value(operand, names) for operand in operands]
    if name == "mov":
        return _move(operands, values)
    kinds = [part for part in opcode if part in _TYPES]
    function = "_".join(part for part in opcode if part not in kinds and part not in ("global", "relaxed", "gpu"))
    function += "_" * (function in ("and", "or", "xor", "not"))  # words of C++
    arguments = f"<{', '.join(_TYPES[kind] for kind in kinds)}>({', '.join(values[1:])})"
    return f"{_value(operands[0].split('|')[0], names)} = {function}{arguments}"


def _access(opcode: list[str], operands: list[str], names: dict[str, str]) -> str:
    """A load or store of one value or several neighbors."""
    load, kind = opcode[0] == "ld", opcode[-1]
    space = next((part for part in opcode if part in ("param", "shared", "global")), "global")
    unknown = set(opcode[1:-1]) - _HINTS - {"param", "shared", "v2", "v4"}
    unknown = {part for part in unknown if not re.fullmatch(r"L\d::.*|level::.*", part)}
    if unknown:
        raise BackendError(f"unknown access {'.'.join(opcode)}")
    address = _address(operands[1] if load else operands[0], names)
    if space == "shared":
        address = f"(uint64_t)shared + {address}"
    registers = (operands[0] if load else operands[1]).strip("{}").split(",")
    moves = []
    for number, register in enumerate(registers):
        at, value = f"{address} + {number * _SIZES[kind]}", _value(register.strip(), names)
        moves.append(f"{'load' if load else 'store'}<{_TYPES[kind]}>({at}, {value})")
    return "; ".join(moves)


def _move(operands: list[str], values: list[str]) -> str:
    """A copy of bits, to or from a pair of registers too."""
    pair = re.fullmatch(r"\{(.*),(.*)\}", operands[0])
    if pair:
        low, high = (f"{part.strip().replace('%', '')}" for part in pair.groups())
        return f"unpack({low}, {high}, {values[1]})"
    pair = re.fullmatch(r"\{(.*),(.*)\}", operands[1])
    if pair:
        low, high = (f"{part.strip().replace('%', '')}" for part in pair.groups())
        return f"pack({values[0]}, {low}, {high})"
    return f"move({values[0]}, {values[1]})"


def _value(operand: str, names: dict[str, str]) -> str:
    """An operand as C++: a register, a special one, a constant, or the address of something that has a name."""
    special = re.fullmatch(r"%(tid|ctaid|ntid|nctaid)\.([xyz])", operand)
    if special:
        return f"{_SPECIAL[special[1]]}.{special[2]}"
    if operand[0] == "%":
        return operand[1:]
    if operand[:2] in ("0f", "0d"):
        return f"{'single' if operand[1] == 'f' else 'twofold'}(0x{operand[2:]}ull)"
    if operand[0] == "[":
        return _address(operand, names)
    if operand in names:
        return names[operand]
    if re.fullmatch(r"-?\d+|0x[0-9a-fA-F]+", operand):
        return f"{operand}ll" if operand.lstrip("-").isdigit() else f"{operand}ull"
    return operand.replace("%", "").replace("$", "_")


def _address(place: str, names: dict[str, str]) -> str:
    """The address [register + offset] of something in memory."""
    base, _, offset = place.strip("[]").partition("+")
    return f"{_value(base, names)} + ({offset or 0})"


def _label(name: str) -> str:
    return "L" + re.sub(r"\W", "_", name.strip())
