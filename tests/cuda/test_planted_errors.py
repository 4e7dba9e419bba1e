"""The emulation catches typical errors in CUDA kernels: each is planted in a copy of the sources."""

import itertools
import shutil

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.augmentation import Augmentation
from gpucnn.backends.cuda.backend import CudaBackend
from gpucnn.backends.cuda.launcher import SOURCES
from gpucnn.backends.step_end import Ahead, StepEnd
from gpucnn.errors import BackendError
from gpucnn.geometry import window
from gpucnn.resampling import upsampling_taps
from tests.cuda.emulated import differing, needs_emulation, with_garbage

pytestmark = [needs_emulation, pytest.mark.slow]


def _draw(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def _load(b, poison):
    return {"y": b.pack(_draw(33, 2, 5, 7)).numpy()}


def _dense(b, poison):
    return {"y": b.dense(b.pack(_draw(5, 150)), b.array(_draw(9, 150)), None).numpy()}


def _conv(b, poison):
    win = window((6, 7), 3, padding=1)
    return {"y": b.conv(b.pack(_draw(3, 5, 6, 7)), b.array(_draw(4, 5, 3, 3)), None, win).numpy()}


def _conv_ends(b, poison):
    """Batch norm, an addition, ReLU and pooling at a convolution's end."""
    win, w = window((6, 7), 3, padding=1), b.array(_draw(4, 5, 3, 3))
    norm = *(b.array(v) for v in (_draw(4), _draw(4) ** 2, _draw(4), _draw(4))), 1e-5
    x, other = b.pack(_draw(3, 5, 6, 7)), b.pack(_draw(3, 4, 6, 7))
    pool = window((6, 7), 2, stride=2)
    return {
        "y": b.conv_inference(x, w, None, win, 1, norm=norm, other=other, relu=True).numpy(),
        "pooled": b.conv_inference(x, w, None, win, 1, norm=norm, relu=True, pool=pool).numpy(),
    }


def _conv_gradient(b, poison):
    win, dw = window((6, 7), 3, padding=1), b.zeros((4, 2, 3, 3))
    b.conv_weight_gradient(poison(b.pack(_draw(17, 4, 6, 7))), poison(b.pack(_draw(17, 2, 6, 7))), win, 1, dw)
    return {"dw": b.host(dw)}


def _bias_gradient(b, poison):
    db = b.zeros((3,))
    b.bias_gradient(poison(b.pack(_draw(20, 3, 15, 9))), db)
    return {"db": b.host(db)}


def _upsampled(b, poison):
    maps = upsampling_taps((3, 4), None, (7, 9), "linear", False)
    y = b.resample(b.pack(_draw(3, 2, 3, 4)), maps)
    return {"y": y.numpy(), "dx": b.resample_gradient(y, maps).numpy()}


def _running(b, poison):
    running = b.array(_draw(300))
    b.update_running(running, b.array(_draw(300) + 1), 0.5)
    return {"running": b.host(running)}


def _dense_gradients(b, poison):
    x, w = b.pack(_draw(70, 20)), b.array(_draw(9, 20))
    dw, db = b.zeros((9, 20)), b.zeros((9,))
    dy = poison(b.pack(_draw(70, 9)))
    dx = b.dense_gradients(dy, b.dense(x, w, None, relu=True), poison(x), w, dw, db, True)
    return {"dx": dx.numpy(), "dw": b.host(dw), "db": b.host(db)}


def _pooled(b, poison):
    """Convolution and batch norm, each with ReLU and max pooling, and their gradients."""
    x, w, win = b.pack(_draw(20, 2, 6, 7)), b.array(_draw(3, 2, 3, 3)), window((6, 7), 3)
    pool, dy, db = window(win.output, 2, stride=2), poison(b.pack(_draw(20, 3, 2, 2))), b.zeros((3,))
    y, where = b.conv_max_pool(x, w, None, win, 1, pool)
    results = {"dz": b.conv_max_pool_gradient(dy, y, where, pool, db).numpy(), "db": b.host(db)}
    x, pool, dy = poison(b.pack(_draw(20, 3, 5, 5))), window((5, 5), 2, stride=2), poison(b.pack(_draw(20, 3, 2, 2)))
    gamma, beta, running = b.array(_draw(3)), b.array(_draw(3) / 2), (b.array(_draw(3)), b.array(_draw(3) + 2))
    mean, var = b.batch_norm_moving_statistics(x, *running, 0.25)
    y, kept = b.batch_norm_max_pool(x, mean, var, gamma, beta, 1e-5, pool)
    outs = b.zeros((3,)), b.zeros((3,))
    dx = b.batch_norm_max_pool_gradient(dy, kept, x, mean, var, gamma, beta, 1e-5, pool, *outs)
    arrays = dict(zip(("dgamma", "dbeta", "running mean", "running var"), map(b.host, (*outs, *running)), strict=True))
    return results | arrays | {"y": y.numpy(), "dx": dx.numpy()}


def _small_channels(b, poison):
    """Batch norm where a block of threads takes a channel alone, and its gradients."""
    x, dy = poison(b.pack(_draw(20, 3, 5, 5))), poison(b.pack(_draw(20, 3, 5, 6)[..., :5].copy()))
    gamma, beta, running = b.array(_draw(3)), b.array(_draw(3) / 2), (b.array(_draw(3)), b.array(_draw(3) + 2))
    y, mean, var = b.batch_norm_training(x, *running, 0.25, gamma, beta, 1e-5, dy, True)
    outs = b.zeros((3,)), b.zeros((3,))
    dx, other = b.batch_norm_add_gradient(dy, y, x, mean, var, gamma, 1e-5, *outs)
    arrays = dict(zip(("dgamma", "dbeta", "running mean", "running var"), map(b.host, (*outs, *running)), strict=True))
    return arrays | {"y": y.numpy(), "dx": dx.numpy(), "other": other.numpy()}


def _ahead(b, poison):
    """The end of two steps; the specification knows nothing of tables, so here they are looked up."""
    order, rates = np.arange(12).reshape(3, 4), np.array([[0.5], [0.25], [0.125]], np.float32)
    w, loss = b.array(_draw(700)), b.zeros((1,))
    row, step, status = b.zeros((1,), np.uint32), b.array(np.array([7], np.uint32)), b.array(np.array([-1], np.int64))
    indices, hyper = b.array(order[0]), b.array(rates[0])
    end = StepEnd(status, step, loss, Ahead(row, b.array(order), indices, b.array(rates), hyper))
    settings = {"momentum": 0.5, "weight_decay": 0.0, "nesterov": False}
    arrays = w, b.array(_draw(700)), b.zeros((700,)), hyper
    results = {}
    for n in (1, 2):
        b.optimize("sgd", *arrays, end=end, **settings)
        if not b.looks_ahead:
            b.assign(indices, order[n])
            b.assign(hyper, rates[n])
            b.assign(row, np.array([n], np.uint32))
            b.assign(step, np.array([7 + n], np.uint32))
        found = {"w": w, "indices": indices, "hyper": hyper, "row": row, "step": step, "status": status}
        results |= {f"{name} after {n}": b.host(array) for name, array in found.items()}
    return results


def _augment(b, poison):
    step, indices = b.array(np.array([5], np.uint32)), b.array(np.arange(33))
    augmentation = Augmentation(1, (4, 6), True, 3, (0.5, 0.1), (0.3, 0.2))
    return {"y": b.load_images(b.array(_draw(33, 2, 5, 7)), indices, 33, augmentation, seed=3, step=step).numpy()}


PLANTED = {
    "drawn numbers are read before they are there": (
        _augment,
        "augmentation.cu",
        "    drawn[lane][kind] = value;\n  }\n  __syncthreads();",
        "    drawn[lane][kind] = value;\n  }",
    ),
    "a pixel outside the image is read": (_augment, "augmentation.cu", "unsigned(sw) < unsigned(IW);", "sw < IW;"),
    "a mirror around the input's middle": (_augment, "augmentation.cu", "W - 1 - w : w", "IW - 1 - w : w"),
    "a cutout before the mirror": (
        _augment,
        "augmentation.cu",
        "unsigned(w - drawn[r][FIRST + 2])",
        "unsigned((drawn[r][MIRRORED] ? W - 1 - w : w) - drawn[r][FIRST + 2])",
    ),
    "a lane behind the last image is drawn for": (
        _augment,
        "augmentation.cu",
        "v < values && i < count && shown",
        "v < values && shown",
    ),
    "a normalisation in one step": (
        _augment,
        "augmentation.cu",
        "__fmul_rn(__fsub_rn(x, mean[c]), scale[c])",
        "__fmaf_rn(x, scale[c], -mean[c] * scale[c])",
    ),
    "a barrier is missing": (
        _load,
        "images.cu",
        "    square[r][lane] = value;\n  }\n  __syncthreads();",
        "    square[r][lane] = value;\n  }",
    ),
    "a write overtakes a read": (_dense, "dense.cu", "if (k_first) __syncthreads();", ""),
    "not all threads reach a barrier": (
        _dense,
        "dense.cu",
        "if (k_first) __syncthreads();",
        "if (k_first && lane < 31) __syncthreads();",
    ),
    "a read past the end": (_running, "optimizers.cu", "if (i < size) running[i] =", "if (i <= size) running[i] ="),
    "a read outside the image": (
        _conv,
        "conv.cu",
        "i < INSIDE) || unsigned(column + i) < unsigned(In::W);\n      xs[i] = inside ? from",
        "i < INSIDE) || column + i < In::W;\n      xs[i] = inside ? from",
    ),
    "pixels of a channel too many": (_conv, "conv.cu", "if (AHEAD && c_first + c + 1 < C) map", "if (AHEAD) map"),
    "pixels of the channel before": (
        _conv,
        "conv.cu",
        "if (AHEAD && c_first + c + 1 < C) map",
        "if (AHEAD && c + 1 < CC && c_first + c + 2 < C) map",
    ),
    "the gradients of the position before": (
        _conv_gradient,
        "conv.cu",
        "fetch(q + u + AHEAD, u + AHEAD, SPAN - NEW);",
        "fetch(q + u + AHEAD - 1, u + AHEAD, SPAN - NEW);",
    ),
    "a ring of pixels that is too short": (
        _conv_gradient,
        "conv.cu",
        "ROUND = filled(AHEAD + ceil_div(SPAN, S::W))",
        "ROUND = filled(AHEAD)",
    ),
    "an unmasked lane in float32": (_conv_gradient, "conv.cu", "acc[i] = there ? acc[i] : 0.0f;", ";"),
    "an unmasked lane in float64": (
        _bias_gradient,
        "sums.cuh",
        "present(block, lane, maps.images) ? sum[s] : 0.0",
        "sum[s]",
    ),
    "a map's taps that are not fused": (
        _upsampled,
        "resampling.cu",
        "sum = __fmaf_rn(weight[t], line[i64(position[t]) * inner * LANES], sum);",
        "sum = __fadd_rn(__fmul_rn(weight[t], line[i64(position[t]) * inner * LANES]), sum);",
    ),
    "a map's table read past its end": (_upsampled, "resampling.cu", "t < first[p + 1]; t++", "t < first[p + 2]; t++"),
    "pixels past a map's end": (_upsampled, "resampling.cu", "if (o >= pixels) return;", ";"),
    "a shuffle with a lane that left": (
        _bias_gradient,
        "sums.cuh",
        "#pragma unroll\n    for (int s = 0; s < SUMS; s++) {\n      const double both",
        "if (lane == 5) return false;\n    for (int s = 0; s < SUMS; s++) {\n      const double both",
    ),
    "a tree over all lanes of a warp": (
        _conv_gradient,
        "common.cuh",
        "half_warp_step<N3>(v, lane, 8);",
        "half_warp_step<N3>(v, lane, 8); v[0] = add(v[0], __shfl_xor_sync(WHOLE_WARP, v[0], 16));",
    ),
    "a gradient past ReLU": (
        _dense_gradients,
        "dense.cu",
        "return !rectifier || rectifier[i] > 0.0f ? dy[i] : 0.0f;",
        "return dy[i];",
    ),
    "a bias gradient of one half warp": (
        _dense_gradients,
        "dense.cu",
        "tree.push(block, __dadd_rn(half, __shfl_xor_sync(WHOLE_WARP, half, IMAGES)));",
        "tree.push(block, half);",
    ),
    "images that are used before they are there": (
        _dense_gradients,
        "dense.cu",
        "if (block + 1 < blocks) fetch(block + 1);",
        "if (block + 2 < blocks) fetch(block + 1);",
    ),
    "the last block's bands left out": (
        _conv_gradient,
        "conv.cu",
        "const bool there = half < halves && group < BAND_GROUPS;",
        "const bool there = half < halves - 1 && group < BAND_GROUPS;",
    ),
    "a maximum's neighbor": (
        _pooled,
        "norm.cu",
        "return where[i] == h % 2 * 2 + w % 2 ? i : -1;",
        "return where[i] == w % 2 * 2 + h % 2 ? i : -1;",
    ),
    "a pooled row too many": (_pooled, "norm.cu", "if (h / 2 >= pooled_height ||", "if (h / 2 > pooled_height ||"),
    "a pooled gradient past ReLU": (
        _pooled,
        "norm.cu",
        "return from >= 0 && y > 0.0f ? __fadd_rn(0.0f, dy[from]) : 0.0f;",
        "return from >= 0 ? __fadd_rn(0.0f, dy[from]) : 0.0f;",
    ),
    "the biased variance in the running one": (
        _pooled,
        "norm.cu",
        "move_running(running ? running + c : nullptr, unbiased[c], momentum);",
        "move_running(running ? running + c : nullptr, var[c], momentum);",
    ),
    "the mean for the variance of a small channel": (
        _small_channels,
        "norm.cu",
        "move_running(running_var + c, unbiased_variance(variance, maps.count()), momentum);",
        "move_running(running_var + c, channel.centre, momentum);",
    ),
    "the means of a small channel's sums mixed up": (
        _small_channels,
        "norm.cu",
        "channel, pool, b, a, dx, other};",
        "channel, pool, a, b, dx, other};",
    ),
    "pixels of a small channel left out": (
        _small_channels,
        "norm.cu",
        "unit < maps.blocks * maps.positions; unit += ALONE",
        "unit < maps.blocks * maps.positions - 1; unit += ALONE",
    ),
    "the images of the step that has been": (
        _ahead,
        "optimizers.cu",
        "indices[i] = order[i64(next) * batch + i];",
        "indices[i] = order[i64(next - 1) * batch + i];",
    ),
    "a rate that changes while others read it": (
        _ahead,
        "optimizers.cu",
        "if (!row || !last_of(gridDim.x, counter)) return;",
        "if (!row || blockIdx.x) return;",
    ),
    "the weights of another output": (_conv, "conv.cu", "? from[i * Strides::O] : 0.0f;", "? from[i] : 0.0f;"),
    "no batch norm at a convolution's end": (
        _conv_ends,
        "conv.cu",
        "float v = after(finished(acc[i][j], b, false));",
        "float v = finished(acc[i][j], b, false);",
    ),
    "ReLU before the addition": (
        _conv_ends,
        "conv.cu",
        "if (other) v = __fadd_rn(v, other[at * LANES + lane]);",
        "v = relu ? rectified(v) : v; if (other) v = __fadd_rn(v, other[at * LANES + lane]);",
    ),
    "a pooled convolution without batch norm": (
        _conv_ends,
        "conv.cu",
        "float best = rectified(after(finished(acc[0][i][2 * j], b, false)));",
        "float best = finished(acc[0][i][2 * j], b, true);",
    ),
    "a multiplication that is not fused": (
        _conv,
        "conv.cu",
        "acc[o][j] = __fmaf_rn(now[j * S::W + s * D::W], wv[o], acc[o][j]);",
        "acc[o][j] = __fadd_rn(acc[o][j], __fmul_rn(now[j * S::W + s * D::W], wv[o]));",
    ),
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
    want = work(get_backend("numpy", "exact"), lambda batch: batch)

    for order, guard in itertools.product(("forward", "reversed", 5), ("end", "front")):
        try:
            if differing(want, work(CudaBackend(EmulatedLauncher(order, guard=guard, folder=sources)), with_garbage)):
                return
        except BackendError:
            return
    pytest.fail("nobody noticed")


@pytest.mark.parametrize(
    "line", ["x[0] = expf(x[0]);", "atomicAdd(x, 1.0f);", "x[0] = rsqrtf(x[0]);", "x[0] = __fdividef(x[0], x[1]);"]
)
def test_what_has_other_bits_on_a_gpu_does_not_compile(line, tmp_path):
    from gpucnn.emulation import compiler

    source = tmp_path / "bad.cu"
    source.write_text(f"__global__ void bad(float* x) {{ {line} }}\n")
    with pytest.raises(BackendError, match="does not compile"):
        compiler.build(source, "bad", sanitize=False)
