"""Further layers as an ONNX graph and as PyTorch's module, by itself, on odd sizes; outputs near ours in float64."""

import numpy as np
import pytest

from gpucnn import layers
from gpucnn.errors import ConfigurationError
from gpucnn.models import Model, export_onnx, pytorch_module
from tests.models.nets import UNIT, images, randomized
from tests.models.test_onnx import DOUBLE, run, run_in_float64

PADDING = [("zeros", 0.0), ("constant", 0.5), ("reflect", 0.0), ("replicate", 0.0), ("circular", 0.0)]
SHAPES = {1: (4, 9), 2: (4, 7, 6), 3: (4, 5, 4, 6)}


def cases():
    """(name, layer, input shape, whether PyTorch has it too)."""
    for axes, shape in SHAPES.items():

        def kind(name, axes=axes):
            return getattr(layers, f"{name}{axes}d")

        for mode, value in PADDING:
            uneven = ((1, 2),) * axes
            for padding in (1, uneven):
                conv = kind("Conv")(
                    6, 3, padding=padding, padding_mode=mode, padding_value=value, groups=2, stride=2, activation="relu"
                )
                yield f"conv {axes}d {mode} {padding}", conv, shape, padding == 1 and mode != "constant"
            yield f"pad {axes}d {mode}", layers.Pad(uneven, mode, value), shape, False
        yield f"conv {axes}d dilated", kind("Conv")(3, 2, dilation=2, padding="same"), shape, False
        for ceil in (False, True):
            settings = {"stride": 2, "padding": 1, "ceil_mode": ceil}
            yield f"max {axes}d {ceil}", kind("MaxPool")(3, **settings), shape, True
            for include in (False, True):
                pool = kind("AvgPool")(3, count_include_pad=include, **settings)
                yield f"average {axes}d {ceil} {include}", pool, shape, True
        for name, size, settings in (
            ("a window dropped", 2, {"stride": 2, "padding": 1}),
            ("beyond the image", 2, {"stride": 3}),
            ("beyond the padding", 4, {"stride": 3, "padding": ((1, 0),) + ((2, 1),) * (axes - 1)}),
        ):
            pools = kind("MaxPool")(size, ceil_mode=True, **settings), kind("AvgPool")(size, ceil_mode=True, **settings)
            yield f"max {axes}d {name}", pools[0], (4, *(6, 8, 6)[:axes]), False
            yield f"average {axes}d {name}", pools[1], (4, *(6, 8, 6)[:axes]), False
        yield f"global average {axes}d", kind("GlobalAvgPool")(), shape, True
        yield f"global max {axes}d", kind("GlobalMaxPool")(), shape, True
        for output in (1, 2, 4):
            yield f"adaptive average {axes}d {output}", kind("AdaptiveAvgPool")(output), shape, False
            yield f"adaptive max {axes}d {output}", kind("AdaptiveMaxPool")(output), shape, False
        for settings in (
            {"scale": 2},
            {"scale": 3, "mode": "linear"},
            {"size": 11, "mode": "linear", "align_corners": True},
        ):
            yield f"upsample {axes}d {settings}", layers.Upsample(**settings), shape, False
        transposed = {"stride": 3, "padding": ((1, 0),) * axes, "output_padding": 1, "groups": 2, "activation": "tanh"}
        yield f"transposed {axes}d", kind("ConvTranspose")(6, 3, **transposed), shape, False
        yield f"transposed {axes}d dilated", kind("ConvTranspose")(3, 2, dilation=2, bias=False), shape, True
        branches = layers.Sequential(), kind("Conv")(3, 1)
        yield f"concat {axes}d", layers.Concat(*branches), shape, False
    for shape in ((4,), *SHAPES.values()):
        for affine in (True, False):
            yield f"group norm {shape} {affine}", layers.GroupNorm(2, affine=affine, activation="relu"), shape, True
            yield f"layer norm {shape} {affine}", layers.LayerNorm(affine=affine), shape, True
    for axes, shape in SHAPES.items():
        yield f"batch norm {axes}d", getattr(layers, f"BatchNorm{axes}d")(), shape, True


CASES = {name: rest for name, *rest in cases()}


@pytest.mark.pytorch
@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_same(name, tmp_path):
    """In float64 to a float32 rounding. In float32, onnxruntime's sums have fewer than 100 terms, independent
    roundings: 16 * sqrt(100) * u in the 2-norm (Higham 2002, section 2.8)."""
    layer, shape, also = CASES[name]
    model = randomized(Model(layer, shape))
    export_onnx(model, tmp_path / "m.onnx")
    x = images(model, 3)
    theirs = run(tmp_path / "m.onnx", x)
    module = None
    if also:
        torch = pytest.importorskip("torch", reason="PyTorch, a test oracle, is not installed")
        module = pytorch_module(model).double()
    ours = model.place(DOUBLE)(x.astype(np.float64))[0].numpy()
    assert theirs.shape == ours.shape
    assert np.linalg.norm(theirs - ours) <= 160 * UNIT * np.linalg.norm(ours)
    # The evaluator's pools know neither ceil mode nor all numbers of axes, its ConvTranspose no groups.
    if not any(word in name for word in ("average", "max", "transposed")):
        assert np.abs(run_in_float64(tmp_path / "m.onnx", x) - ours).max() <= UNIT * np.abs(ours).max()
    if module is not None:
        with torch.no_grad():
            assert (
                np.abs(module(torch.from_numpy(x.astype(np.float64))).numpy() - ours).max() <= UNIT * np.abs(ours).max()
            )


def test_a_constant_around_an_image_is_not_pytorchs():
    model = Model(layers.Conv2d(3, 3, padding=1, padding_mode="constant", padding_value=0.5), (2, 5, 5))
    with pytest.raises(ConfigurationError, match="constant"):
        pytorch_module(model)
