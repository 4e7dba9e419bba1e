"""Losses, softmax of maps and clipping through the shipped CUDA sources, emulated: masks, many blocks,
planted errors.
"""

import shutil

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.backends.cuda.launcher import SOURCES
from gpucnn.errors import BackendError
from tests.cuda.emulated import backend, differing, needs_emulation, with_garbage

pytestmark = needs_emulation
LOSSES = ("mean_squared", "mean_absolute", "huber", "binary_cross_entropy")


def _draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def _losses(b, poison, n=17, classes=5):
    z, totals = poison(b.pack(_draw(n, classes) * np.float32(3))), b.zeros((3,), np.float64)
    weights = b.array(np.abs(_draw(classes, seed=1)) + np.float32(0.25))
    loss, dz = b.weighted_cross_entropy(z, b.pack_labels(np.arange(n) % classes), weights, 0.1, totals)
    results = {"loss": b.host(loss), "dz": dz.numpy(), "totals": b.host(totals)}
    t = poison(b.pack(np.random.default_rng(2).random((n, classes), np.float32)))
    for kind in LOSSES:
        total = b.zeros((1,), np.float64)
        loss, dx = b.value_loss(kind, z, t, 0.5, total)
        results |= {kind: b.host(loss), f"{kind} dx": dx.numpy(), f"{kind} sum": b.host(total)}
    return results


def _many(b, poison):
    """Weights in more blocks than one warp takes."""
    return _losses(b, poison, 300)


def _maps(b, poison):
    x, dy = poison(b.pack(_draw(33, 3, 4, 5))), poison(b.pack(_draw(33, 3, 4, 5, seed=1)))
    y = b.softmax(x)
    return {"y": y.numpy(), "dx": b.softmax_gradient(dy, y).numpy()}


def _line(b, poison):
    """Several bands of 64 values per image."""
    x, t = poison(b.pack(_draw(35, 2, 9, 11))), poison(b.pack(_draw(35, 2, 9, 11, seed=1)))
    total = b.zeros((1,), np.float64)
    b.value_loss("huber", x, t, 0.5, total)
    return {"sum": b.host(total)}


def _clipped(b, poison):
    g = b.array(_draw(3000))
    b.clip_norm(g, 1.0)
    value = b.array(_draw(300))
    b.clip_value(value, 0.5)
    return {"norm": b.host(g), "value": b.host(value)}


@pytest.mark.parametrize("work", [_losses, _maps, _line, _clipped])
@pytest.mark.parametrize(("order", "guard"), [("forward", "end"), ("reversed", "front"), (7, "end")])
def test_lanes_without_an_image_change_nothing(work, order, guard):
    want = work(get_backend("numpy", "exact"), lambda batch: batch)
    assert differing(want, work(backend(order, guard), with_garbage)) == []


@pytest.mark.parametrize("n", [1, 31, 32, 33, 2100])
def test_losses_over_many_blocks(n):
    """2100 images are more half blocks than the last block of threads has threads."""
    want = _losses(get_backend("numpy", "exact"), lambda batch: batch, n, 3)
    assert differing(want, _losses(backend(), with_garbage, n, 3)) == []


def test_clipping_a_long_gradient():
    """More blocks of 1024 than threads."""

    def run(b):
        g = b.array(_draw(300_001))
        b.clip_norm(g, 0.75)
        return {"g": b.host(g)}

    assert differing(run(get_backend("numpy", "exact")), run(backend())) == []


PLANTED = {
    "an unmasked lane in a weighted loss": (
        _losses,
        "loss.cu",
        "half_warp_sum(there ? double(each) : 0.0)",
        "half_warp_sum(double(each))",
    ),
    "a label read where there is no image": (
        _losses,
        "loss.cu",
        "present(block, lane, images) ? weights[",
        "true ? weights[",
    ),
    "smoothing that is not fused": (_losses, "loss.cu", "__fmaf_rn(keep, w, q)", "__fadd_rn(__fmul_rn(keep, w), q)"),
    "a missing barrier before the tree": (
        _many,
        "loss.cu",
        "  }\n  __syncthreads();\n  const int thread",
        "  }\n  const int thread",
    ),
    "a band of 32 values": (_line, "value_loss.cu", "blocks, values, BAND}", "blocks, values, BAND / 2}"),
    "the channels of another position": (
        _maps,
        "loss.cu",
        "channels * apart + i64(unit % positions) * LANES",
        "channels * apart + i64(unit % channels) * LANES",
    ),
    "a norm over half of each block": (_clipped, "clip.cu", "row < BAND;", "row < BAND / 2;"),
    "values past the end in a norm": (_clipped, "clip.cu", "i < size ? double(g[i]) : 0.0", "double(g[i])"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_error_is_caught(name, tmp_path):
    from gpucnn.emulation.launcher import EmulatedLauncher

    work, file, old, new = PLANTED[name]
    sources = tmp_path / "cuda"
    shutil.copytree(SOURCES, sources)
    text = (sources / file).read_text()
    assert old in text, f"{file} no longer holds {old!r}: plant the error again"
    (sources / file).write_text(text.replace(old, new))
    want, found = work(get_backend("numpy", "exact"), lambda batch: batch), []
    for order, guard in (("forward", "end"), ("reversed", "front")):
        try:
            emulated = CudaBackend(EmulatedLauncher(order, guard=guard, folder=sources))
            found += differing(want, work(emulated, with_garbage))
        except BackendError as error:
            found.append(str(error))
    assert found, "nobody noticed"
