"""Kernels and CUDA sources, which cannot import the declarations, agree with them."""

import inspect
import re
import sys

import pytest
from gpucnn.kernels import contract
from gpucnn.kernels.numba import elementwise, simd
from gpucnn.kernels.numba.value_loss import value_loss

from gpucnn import functional, layers, losses
from gpucnn.arithmetic import sums
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.backends.cuda.fused import CudaFused
from gpucnn.backends.cuda.launcher import SOURCES
from gpucnn.backends.cuda.shared import CudaShared
from gpucnn.backends.elementwise import ELEMENTWISE
from gpucnn.backends.lanes import LaneBackend
from gpucnn.backends.numba.backend import NumbaBackend
from gpucnn.backends.numpy.exact import elementwise as exact
from gpucnn.backends.numpy.fast import elementwise as fast
from gpucnn.backends.protocol import Backend
from gpucnn.backends.shared import SharedSums
from gpucnn.check.cases import all_cases
from gpucnn.layers import activation


def test_the_contracts_sizes_stand_once():
    assert (contract.BLOCK, contract.BAND) == (sums.BLOCK, sums.BAND) == (16, 64)
    assert simd.LANES == contract.BLOCK
    constants = dict(re.findall(r"^constexpr int (IMAGES|BAND) = (\d+);", (SOURCES / "common.cuh").read_text(), re.M))
    assert constants == {"IMAGES": str(contract.BLOCK), "BAND": str(contract.BAND)}
    redefined = [path.name for path in SOURCES.glob("*.cu") if re.search(r"\bint (IMAGES|BAND) =", path.read_text())]
    assert redefined == []


def test_every_operation_has_its_expressions():
    names = list(ELEMENTWISE)
    source = SOURCES.parent / "numba_cuda" / "elementwise.py"  # imports Numba's CUDA: read, not imported
    found = {
        "kernels/numba/elementwise.py": list(elementwise.EXPRESSIONS),
        "kernels/cuda/operations.cuh": re.findall(r"^struct (\w+) \{", (SOURCES / "operations.cuh").read_text(), re.M),
        "kernels/numba_cuda/elementwise.py": re.findall(r'^    "(\w+)": \($', source.read_text(), re.M),
    }
    for numpy in (exact, fast):
        file = f"{numpy.__name__.replace('.', '/')}.py"
        found |= {f"{file}, VALUES": list(numpy.VALUES), f"{file}, GRADIENTS": list(numpy.GRADIENTS)}
    missing = [f"{file} lacks {name}" for file, there in found.items() for name in names if name not in there]
    assert not missing, "\n".join(missing)
    assert found == dict.fromkeys(found, names), "in the order of the declarations"
    assert list(elementwise.FORWARD) == list(elementwise.GRADIENT) == names


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_operation_takes_what_is_declared(name):
    declared = ELEMENTWISE[name]
    value, gradient = elementwise.EXPRESSIONS[name]
    assert value.__code__.co_varnames[: value.__code__.co_argcount] == ("x", *declared.settings)
    assert gradient.__code__.co_varnames[: gradient.__code__.co_argcount] == ("dy", declared.saved, *declared.settings)
    struct = re.search(rf"struct {name} \{{(.*?)\}};", (SOURCES / "operations.cuh").read_text(), re.S).group(1)
    parameters = [re.findall(r"float (\w+)[,)]", line) for line in struct.splitlines() if "static DEVICE" in line]
    assert parameters == [["x", *declared.settings], ["dy", declared.saved, *declared.settings]]


def test_every_operation_is_a_layer():
    kinds = {kind.operation: kind for kind in activation.Activation.__subclasses__()}
    assert kinds == activation._LAYERS
    assert set(kinds) == set(ELEMENTWISE), "the layers of gpucnn/layers/activation.py, and the declarations"
    for name, kind in kinds.items():
        assert len(kind().constants) == len(ELEMENTWISE[name].settings)


def test_every_layer_is_offered():
    modules = [module for name, module in sys.modules.items() if name.startswith("gpucnn.layers.")]
    made = {kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)}
    made = {kind for kind in made if issubclass(kind, layers.Layer) and kind.__module__.startswith("gpucnn.layers.")}
    missing = {kind.__name__ for kind in made if not kind.__subclasses__()} - {*layers.__all__}
    assert not missing, "gpucnn/layers/__init__.py lacks them"


def test_lists_of_activations_have_them_all():
    texts = {name: vars(layers)[name].__doc__ or "" for name in layers.__all__}
    lists = {name: text for name, text in texts.items() if '"tanh"' in text}
    assert len(lists) == 4
    missing = [
        f"{layer}'s lacks {name}" for layer, text in lists.items() for name in ELEMENTWISE if f'"{name}"' not in text
    ]
    assert not missing, "docstrings: " + ", ".join(missing)
    for method in (Backend.elementwise, Backend.elementwise_gradient):
        assert re.findall(r"^(\w+)  ", inspect.getdoc(method), re.M) == list(ELEMENTWISE), method.__qualname__


def test_an_activation_given_by_name_has_all_settings():
    lengths = {name: len(activation._SETTINGS.get(name, ())) for name in ELEMENTWISE}
    assert lengths == {name: len(declared.settings) for name, declared in ELEMENTWISE.items()}


def test_every_loss_is_everywhere():
    kinds = [kind for kind in vars(losses).values() if inspect.isclass(kind) and issubclass(kind, losses.Loss)]
    of_values = [kind.kind for kind in kinds if issubclass(kind, losses.ValueLoss) and kind.kind]
    others = [re.sub("(?<!^)([A-Z])", r"_\1", kind.__name__).lower() for kind in kinds if not hasattr(kind, "kind")]
    others.remove("loss")
    source = (SOURCES / "value_loss.cu").read_text()
    simple = (SOURCES.parent / "numba_cuda" / "value_loss.py").read_text()
    compared = {re.sub("[ -]", "_", case.operation) for case in all_cases()}
    found = {
        "kernels/numba/value_loss.py": (of_values, value_loss),
        "kernels/cuda/value_loss.cu": (of_values, re.findall(r"^struct (\w+) \{", source, re.M)),
        "kernels/numba_cuda/value_loss.py, KINDS": (of_values, re.findall(r'"(\w+)": \d', simple)),
        "Backend.value_loss": (of_values, re.findall(r"^ {4}(\w+)  ", inspect.getdoc(Backend.value_loss), re.M)),
        "gpucnn/check/cases/loss.py": (of_values + others, compared),
        "gpucnn/functional/loss.py": (of_values + others, functional.__all__),
    }
    missing = [
        f"{place} lacks {name}" for place, (names, there) in found.items() for name in names if name not in there
    ]
    assert not missing, "\n".join(missing)
    assert len(of_values) == 4 and others == ["softmax_cross_entropy", "dice"]


@pytest.mark.parametrize("backend", [NumbaBackend, CudaBackend])
def test_no_part_of_a_backend_hides_anothers_method(backend):
    parts = [kind for kind in backend.__mro__ if kind.__module__.startswith("gpucnn.backends.") and kind is not Backend]
    # Over the operations of all others: parts of a batch, and traced steps.
    shared = (LaneBackend, SharedSums, CudaShared, CudaFused)
    names = [name for kind in parts if kind not in shared for name in vars(kind)]
    names = [name for name in names if not name.startswith(("__", "_abc_impl"))]
    assert len(parts) > 10 and len(names) == len(set(names)), [name for name in names if names.count(name) > 1]
