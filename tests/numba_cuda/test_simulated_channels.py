"""Errors planted in the Numba-CUDA kernels of channels.py change bits in the simulator."""

import pytest

from tests.numba_cuda import test_simulator
from tests.numba_cuda.test_simulator import simulate
from tests.processes import checkout, finish

pytestmark = test_simulator.pytestmark
PLANTED = {
    "the last + 0 is missing": (
        "value = add(add(x[i], bias[i // pixels % bias.size]), ZERO)",
        "value = add(x[i], bias[i // pixels % bias.size])",
    ),
    "every channel has the first one's bias": ("bias[i // pixels % bias.size]", "bias[0]"),
    "all branches in one place": ("y[b, first_y + k]", "y[b, k]"),
    "the first channels instead": ("x[b, first_x + k]", "x[b, k]"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each planted error changes, all running side by side, and what nothing planted changes."""
    running = {"nothing": simulate("channels")}
    for name, edit in PLANTED.items():
        folder = checkout(tmp_path_factory.mktemp("planted"), {"kernels/numba_cuda/channels.py": edit})
        running[name] = simulate("channels", folder)
    return {name: finish(process) for name, process in running.items()}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_error_is_found(found, name):
    assert all(differing == {} for _, differing in found["nothing"].values())
    assert any(differing for _, differing in found[name].values())
