"""Memory that a kernel asks for while it computes, and that is not there."""

import platform

import pytest

from tests.processes import finish, start

# Beyond so many bytes each piece of memory is the system's own, whose limit is set to what is in use.
GLIBC = {"MALLOC_MMAP_THRESHOLD_": str(64 << 10)}
PREDICT = """
import json, mmap, resource
import numpy as np
from gpucnn.backends import get_backend
from gpucnn.layers import Dense, GlobalAvgPool2d, GroupNorm, LayerNorm, Sequential, Softmax
from gpucnn.models import Model

FREE = resource.RLIM_INFINITY, resource.RLIM_INFINITY
NETWORKS = {
    "group norm": (Sequential(GroupNorm(1), GlobalAvgPool2d()), (512, 64, 64)),
    "layer norm": (Sequential(Dense(16384), LayerNorm(), Dense(4)), (8,)),
    "softmax": (Sequential(Dense(16384), Softmax(), Dense(4)), (8,)),
}

def predict(network, shape):
    model = Model(network, shape).initialize(0)
    model.place(get_backend("numba", threads=1))
    images = np.random.default_rng(0).standard_normal((4, *shape), np.float32)
    model.predict(images[:2])
    expected = model.predict(images[2:])
    model.predict(images[:2])
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
    held = []  # what is left, and what other threads have given back meanwhile
    try:
        while True:
            held.append(mmap.mmap(-1, 65536))
    except OSError:
        held.pop().close()  # for the results
    try:
        model.predict(images[2:])
        told = "nothing"
    except MemoryError as error:
        told = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, FREE)
    del held
    return told, bool((model.predict(images[2:]) == expected).all())

print(json.dumps({name: predict(*network) for name, network in NETWORKS.items()}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets limits to memory as glibc asks for it")
def test_a_layer_that_finds_no_memory_says_so():
    """Predictions were those of the call before, without a word from Python."""
    finish(start(PREDICT, **GLIBC))  # a process that compiles has much memory to spare
    found = finish(start(PREDICT, **GLIBC))
    told = "a layer found no memory for what it holds while it computes"
    assert found == {"group norm": [told, True], "layer norm": [told, True], "softmax": [told, True]}
