"""The ready-made networks from resnet56 on: sizes, PyTorch, ONNX, files, training, label maps, whitening."""

import numpy as np
import pytest

import gpucnn
from gpucnn.backends import get_backend
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.layers import Dense, Flatten, Sequential, Whitening2d
from gpucnn.layers.whitening import eigen
from gpucnn.losses import Dice, SoftmaxCrossEntropy
from gpucnn.models import Model, build_model, export_onnx, pytorch_module, resnet56, unet_small
from gpucnn.summary import summary
from gpucnn.training import Trainer
from tests.models.nets import images, randomized

# The default shape and the number of weights, and a small shape.
NEW = {
    "resnet56": ((3, 32, 32), 272474 + 6 * (2 * 9 * (16**2 + 32**2 + 64**2) + 4 * (16 + 32 + 64)), (3, 5, 7)),
    "separable_small": ((3, 32, 32), None, (2, 6, 5)),
    "cifar_fast": ((3, 32, 32), None, (1, 9, 10)),
    "signal_small": ((1, 128), 32 * 7 + 64 * 32 * 5 + 128 * 64 * 3 + 2 * (32 + 64 + 128) + 1290, (2, 11)),
    "volume_small": ((1, 16, 16, 16), 27 * (16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 650, (1, 4, 5, 6)),
    "unet_small": ((1, 32, 32), None, (2, 4, 8)),
}


def made(name: str, classes=3) -> Model:
    model = randomized(build_model(name, NEW[name][2], classes))
    rng = np.random.default_rng(4)
    state = model.state_dict()
    for name, value in state.items():  # the whitening filters too
        state[name] = value if value.any() else (rng.standard_normal(value.shape) / 4).astype(np.float32)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("name", NEW)
def test_sizes_and_summary(name, tmp_path):
    shape, parameters, small = NEW[name]
    model = build_model(name, shape)
    assert parameters in (None, model.parameter_count)
    maps = shape[1:] if name == "unet_small" else ()
    assert model.output_shape == (10, *maps) and summary(model).total.parameters == model.parameter_count
    regressor = build_model(name, small, outputs=2)
    assert regressor.head == "regressor" and regressor.output_shape[0] == 2
    model = made(name)
    model.class_names = ["a", "b", "c"]
    gpucnn.save(model, tmp_path / "m.safetensors")
    back = gpucnn.load(tmp_path / "m.safetensors")
    assert back.weights_sha256() == model.weights_sha256() and back.class_names == model.class_names


@pytest.mark.pytorch
@pytest.mark.parametrize("name", NEW)
def test_pytorch_computes_the_same(name):
    """In float64: whatever differs is no rounding."""
    torch = pytest.importorskip("torch")
    model = made(name)
    x = images(model, 3).astype(np.float64)
    theirs = pytorch_module(model).double()(torch.from_numpy(x)).detach().numpy()
    model.place(get_backend("numpy", "fast", dtype=np.float64))
    np.testing.assert_allclose(model(x)[0].numpy(), theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NEW)
def test_onnx_computes_the_same(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = made(name)
    export_onnx(model, tmp_path / "m.onnx")
    x = images(model, 3)
    (theirs,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"images": x})
    ours = model.place(get_backend("numpy", "fast", dtype=np.float64))(x.astype(np.float64))[0].numpy()
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).max() < 2.0**-24 * 4096 * np.abs(ours).max()  # chains of thousands of roundings


def _trained(name: str, backend) -> tuple[str, list]:
    """Two steps at toy size."""
    widths = {"cifar_fast": {"widths": (2, 3)}, "unet_small": {"widths": (3, 4)}}.get(name, {})
    model = build_model(name, NEW[name][2], 3, **widths)
    rng = np.random.default_rng(0)
    x = rng.random((18, *model.input_shape), np.float32)
    y = rng.integers(0, 3, (18, *model.output_shape[1:]))
    history = Trainer(model, backend=backend, batch_size=17, progress=False).fit(x, y, 1)
    return model.weights_sha256(), history["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_fast", "signal_small", "unet_small"])
def test_training_gives_the_same_bits(name):
    want = _trained(name, "numpy")
    assert _trained(name, "numba") == want
    if name in ("unet_small", "cifar_fast") and why_not() is None:  # what no other network has
        assert _trained(name, get_emulated_backend()) == want


@pytest.mark.slow
@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("loss", ["cross-entropy", "dice"])
def test_label_maps_train_to_the_same_bits_however_they_move(loss, crop):
    rng = np.random.default_rng(1)
    x, labels = rng.random((20, 1, 10, 12), np.float32), rng.integers(0, 3, (20, 10, 12))
    labels[rng.random(labels.shape) < 0.1] = 255
    hashes = set()
    for backend in ("numpy", "numba"):
        model = unet_small((1, 8, 8) if crop else (1, 10, 12), 3, widths=(3, 4))
        weighted = SoftmaxCrossEntropy(class_weights="balanced", ignore_index=255)
        trainer = Trainer(
            model,
            backend=backend,
            loss=weighted if loss == "cross-entropy" else Dice(ignore_index=255),
            **{"batch_size": 17, "shift": 1, "flip": True, "cutout": 3, "normalize": True, "crop": crop},
            progress=False,
        )
        trainer.fit(x, labels, 2)
        hashes.add((model.weights_sha256(), trainer.evaluate(x, labels)))
    assert len(hashes) == 1


def test_labels_move_with_their_pixels():
    """Each pixel's label is its brightness: a loss of zero for the network that reads it off, wherever images move."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, (40, 6, 6))
    x = np.stack([labels == c for c in range(3)], 1).astype(np.float32) * 50
    model = Model(gpucnn.layers.Conv2d(3, 1, bias=False), (3, 6, 6))
    model.load_state_dict({"weight": np.eye(3, dtype=np.float32)[:, :, None, None]})
    still = gpucnn.optimizers.SGD(lr=1e-30)
    for moving in ({"shift": 2}, {"flip": True}, {"shift": 1, "flip": True}):
        trainer = Trainer(model, backend="numpy", optimizer=still, progress=False, **moving)
        history = trainer.fit(x, labels, 2)
        assert history["accuracy"] == [1, 1] and max(history["loss"]) < 1e-20


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: unet_small((1, 30, 32)), ShapeError, "multiples of 4, not 30x32"),
        (lambda: unet_small((1, 32, 32), widths=()), ConfigurationError, "widths is empty"),
        (lambda: build_model("signal_small", (1, 32, 32)), ShapeError, r"shape \(C, L\), not \(1, 32, 32\)"),
        (lambda: build_model("volume_small", (1, 3, 8, 8)), ShapeError, "4x4x4 pixels at least, not 3x8x8"),
        (lambda: build_model("cifar_fast", (3, 8, 9)), ShapeError, "9x9 pixels at least"),
        (lambda: resnet56((32, 32)), ShapeError, r"\(C, H, W\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_labels_that_do_not_fit_the_maps():
    trainer = Trainer(unet_small((1, 4, 4), 3, widths=(2,)), progress=False)
    x = np.zeros((2, 1, 4, 4), np.float32)
    for labels, words in (
        (np.zeros(2, int), r"takes a class for each position, \(2, 4, 4\); for one label an image"),
        (np.zeros((2, 4, 5), int), r"\(2, 4, 4\)"),
        (np.full((2, 4, 4), 3), r"label 3 of image 0 at \(0, 0\) is out of range"),
        (np.full((2, 4, 4), -1), "ignore_index=-1 ignores"),
        (np.zeros((2, 4, 4), np.float32), "labels are float32"),
    ):
        with pytest.raises(gpucnn.errors.GpucnnError, match=words):
            trainer.fit(x, labels, 1)
    with pytest.raises(ShapeError, match="one class an image"):
        Trainer(build_model("mlp", (1, 4, 4), 3), progress=False).fit(x, np.zeros((2, 4, 4), int), 1)
    with pytest.raises(ConfigurationError, match="must be of one size"):
        Trainer(Model(gpucnn.layers.Conv2d(3, 3), (1, 4, 4)), shift=1, progress=False)


# ---- whitening -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_eigenvalues_and_vectors(n):
    rng = np.random.default_rng(n)
    a = rng.standard_normal((n, 3 * n))
    matrix = a @ a.T
    values, vectors = eigen(matrix)
    scale = np.abs(matrix).max() * n
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(matrix), atol=1e-13 * scale)
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, matrix, atol=1e-13 * scale)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(n), atol=1e-13 * n)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_whitened_patches_are_uncorrelated(backend):
    rng = np.random.default_rng(3)
    smooth = rng.random((60, 2, 9, 9)).cumsum(3).astype(np.float32)
    model = Model(Sequential(Whitening2d(2, eps=1e-9), Flatten(), Dense(3)), (2, 8, 8)).initialize(0)
    trainer = Trainer(model, backend=backend, crop=True, normalize=True, progress=False)
    trainer.fit(smooth, np.arange(60) % 3, 1)
    weights = model.state_dict()["0.weight"]
    assert np.array_equal(weights[:8], -weights[8:])
    y, _ = model.layer.layers[0](model.batch(smooth))
    y = y.numpy().astype(float) - model.state_dict()["0.bias"].reshape(1, -1, 1, 1)
    y = np.moveaxis(y, 1, 0)[:8].reshape(8, -1)
    np.testing.assert_allclose(y @ y.T / y.shape[1], np.eye(8), atol=1e-3)
    trainer.fit(smooth[::-1], np.arange(60) % 3, 1)
    assert np.array_equal(model.state_dict()["0.weight"], weights)  # once


def test_whitening_has_no_gradient_but_its_bias_and_input():
    layer = Whitening2d(2)
    model = Model(Sequential(layer, Flatten(), Dense(2)), (1, 4, 4)).initialize(0)
    filters = np.random.default_rng(0).standard_normal(layer.weight.shape).astype(np.float32)
    model.load_state_dict(model.state_dict() | {"0.weight": filters})
    assert [p.name for p in model.parameters] == ["0.bias", "2.weight", "2.bias"]
    assert gpucnn.check_gradients(model.layer, shape=(1, 4, 4)).passed
