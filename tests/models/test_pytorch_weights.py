"""Weights to and from PyTorch state dicts: names, shapes, files; and that PyTorch's network computes the same."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest

import gpucnn
from gpucnn.backends import get_backend
from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.layers import (
    GELU,
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    MaxPool2d,
    Pad,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    TorchModule,
    Upsample,
)
from gpucnn.models import (
    Model,
    build_model,
    from_pytorch,
    lenet5,
    mlp,
    pytorch_module,
    pytorch_names,
    resnet20,
    save_pytorch,
    to_pytorch,
)
from tests.models.nets import NETWORKS, UNIT, bound, images, leaves, network, randomized

FAST = get_backend("numpy", "fast")
DOUBLE = get_backend("numpy", "fast", dtype=np.float64)
DOCS = Path(gpucnn.__file__).resolve().parent.parent / "docs" / "pytorch.md"


def fresh(name: str) -> Model:
    kind, shape, options = NETWORKS[name]
    return build_model(kind, shape, **options).initialize(99)


# ---- without PyTorch -------------------------------------------------------------------------------------------------


def test_lenet5_has_the_names_of_an_ordinary_sequential():
    """Convolution, ReLU, pooling, convolution, ReLU, pooling, flatten, linear, ReLU, linear, ReLU, linear."""
    assert pytorch_names(lenet5()) == {
        "0.weight": "0.weight",
        "0.bias": "0.bias",
        "2.weight": "3.weight",
        "2.bias": "3.bias",
        "5.weight": "7.weight",
        "5.bias": "7.bias",
        "6.weight": "9.weight",
        "6.bias": "9.bias",
        "7.weight": "11.weight",
        "7.bias": "11.bias",
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_come_back(name, tmp_path):
    model = network(name)
    state = to_pytorch(model)
    expected = {part.name: part.shape for part in (*model.parameters, *model.running)}
    assert {ours: state[theirs].shape for ours, theirs in pytorch_names(model).items()} == expected
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    assert len(counters) == sum(isinstance(layer, BatchNorm) for layer in model.layer.walk())
    assert len(state) == len(expected) + len(counters)
    assert from_pytorch(fresh(name), state).weights_sha256() == model.weights_sha256()
    without = {key: value for key, value in state.items() if key not in counters}
    assert from_pytorch(fresh(name), without).weights_sha256() == model.weights_sha256()
    path = tmp_path / "weights.safetensors"
    save_pytorch(model, path)
    for where in (path, str(path)):
        assert from_pytorch(fresh(name), where).weights_sha256() == model.weights_sha256()


def test_a_layer_in_two_places_is_two_modules_of_the_same_weights():
    twice = Dense(4)
    model = Model(Sequential(twice, ReLU(), Residual(twice), BatchNorm()), (4,)).initialize(1)
    state = to_pytorch(model)
    assert np.array_equal(state["0.weight"], state["2.body.0.weight"])
    fresh = from_pytorch(copy.deepcopy(model).initialize(2), state)
    assert fresh.weights_sha256() == model.weights_sha256()
    other = {**state, "2.body.0.weight": state["0.weight"] + 1}
    with pytest.raises(CheckpointError, match=r"0\.weight and 2\.body\.0\.weight differ in the state dict"):
        from_pytorch(fresh, other)
    assert fresh.weights_sha256() == model.weights_sha256()


def test_half_precision_is_taken_and_double_is_not():
    model = mlp((4,), 2, hidden=()).initialize(0)
    half = {name: value.astype(np.float16) for name, value in to_pytorch(network("mlp regressor")).items()}
    assert from_pytorch(mlp((7,), outputs=2, hidden=(5,)), half).initialized
    double = {name: value.astype(np.float64) for name, value in to_pytorch(model).items()}
    with pytest.raises(CheckpointError, match=r"float64; convert it to float32: module.float\(\)"):
        from_pytorch(model, double)


def test_what_does_not_fit_is_refused():
    model, state = network("mlp"), to_pytorch(network("mlp"))
    digest = model.weights_sha256()
    first = next(iter(state))
    bad = np.full_like(state[first], np.nan)
    for wrong, words in (
        ({key: value for key, value in state.items() if key != first}, "1.weight is missing in it and (30, 81)"),
        ({**state, "9.weight": state[first]}, "9.weight is (30, 81) in it and missing"),
        ({**state, first: state[first].T}, "1.weight is (81, 30) in it and (30, 81)"),
        ({**state, first: bad}, "holds a NaN"),
        (
            {f"module.{key}": value for key, value in state.items()},
            "take the prefix away: {name.removeprefix('module.')",
        ),
        (
            {f"fc{i}.{key.split('.')[-1]}": value for i, (key, value) in enumerate(state.items())},
            "the same shapes in the same order: docs/pytorch.md",
        ),
        ({"epoch": 3, "state_dict": state}, "is int"),
        ({"state_dict": state}, "is a dictionary itself; if it has the weights, give state['state_dict']"),
        ({**state, first: np.zeros(state[first].shape, np.int32)}, "is int32"),
        ({}, "missing"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(words)):
            from_pytorch(model, wrong)
    assert model.weights_sha256() == digest


def test_files_of_other_kinds_are_refused(tmp_path):
    model = network("mlp")
    gpucnn.save(model, tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match="gpucnn.load"):
        from_pytorch(model, tmp_path / "own.safetensors")
    for start in (b"PK\x03\x04", b"\x80\x02}q\x00."):
        (tmp_path / "w.pt").write_bytes(start + bytes(50))
        with pytest.raises(CheckpointError, match="a pickle, .* not read; convert it .* safetensors.torch.save_file"):
            from_pytorch(model, tmp_path / "w.pt")
    save_pytorch(model, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    for length in (0, 3, 40, len(whole) - 1):
        (tmp_path / "w.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="cut short"):
            from_pytorch(model, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="no file"):
        from_pytorch(model, tmp_path / "none.safetensors")


class Own(Dense):
    """A subclass that computes something else."""

    def __call__(self, x):
        return super().__call__(x)


class Strange(Layer):
    def __call__(self, x):
        return x, lambda dy: dy


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Strange(), "layer 0 (Strange) has no counterpart"),
        (Conv2d(2, 3, padding=((0, 1), (1, 0))), "pads unevenly"),
        (MaxPool2d(3, padding=((0, 1), (1, 1))), "pads unevenly"),
        (Upsample(size=(8, 94)), "from 2 to 94 pixels takes others than PyTorch's"),
    ],
)
def test_layers_without_a_counterpart_are_refused(layer, words):
    model = Model(Sequential(layer, Flatten(), Dense(2)), (1, 8, 2 if isinstance(layer, Upsample) else 8))
    for call in (to_pytorch, pytorch_names, pytorch_module):
        with pytest.raises(ConfigurationError, match=re.escape(words)):
            call(model)
    with pytest.raises(ConfigurationError, match="Own"):
        to_pytorch(Model(Own(3), (4,)))


class Misnamed(Layer):
    def __call__(self, x):
        return x, lambda dy: dy

    def pytorch(self):
        return [TorchModule("Misnamed")]


@pytest.mark.pytorch
def test_a_module_that_pytorch_lacks_is_refused(torch):
    with pytest.raises(ConfigurationError, match=r"torch.nn has no Misnamed, which the pytorch\(\) of a layer"):
        pytorch_module(Model(Sequential(Misnamed(), Dense(2)), (4,)).initialize(0))


def test_the_documents_names_are_those_of_the_program():
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|", DOCS.read_text(), re.MULTILINE)
    assert dict(rows) == pytorch_names(lenet5()) == pytorch_names(lenet5(variant="1998"))
    names = pytorch_names(resnet20())
    for ours, theirs in (
        ("2.body.0.weight", "3.body.0.weight"),
        ("2.body.1.gamma", "3.body.1.weight"),
        ("5.shortcut.0.weight", "9.shortcut.0.weight"),
    ):
        assert names[ours] == theirs and f"`{theirs}`" in DOCS.read_text()


def test_a_state_dict_with_names_of_its_own_is_renamed_as_the_document_says():
    found = re.search(r"^def renamed.*?(?=^```)", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    space = {"pytorch_names": pytorch_names}
    exec(found[0], space)
    for name in ("resnet20", "mlp"):
        model = network(name)
        own = {f"part{i}.{key.split('.')[-1]}": value for i, (key, value) in enumerate(to_pytorch(model).items())}
        with pytest.raises(CheckpointError, match="is not of a network like this"):
            from_pytorch(fresh(name), own)
        assert from_pytorch(fresh(name), space["renamed"](own, model)).weights_sha256() == model.weights_sha256()


def test_tensors_in_the_order_of_their_names_as_in_a_file_are_not_taken_for_the_networks_order(tmp_path):
    """Of batch norm all tensors have one shape, and bias comes before weight."""
    from safetensors.numpy import load_file, save_file

    layers = Conv2d(4, 3, bias=False), BatchNorm(), Flatten(), Dense(2, bias=False)
    model = randomized(Model(Sequential(*layers), (1, 6, 6)))
    own = {name.replace(".", "th."): value for name, value in to_pytorch(model).items() if "batches" not in name}
    save_file(own, tmp_path / "own.safetensors")
    state = load_file(tmp_path / "own.safetensors")
    assert [value.shape for value in state.values()] == [value.shape for value in own.values()]
    for advice, source in ((True, own), (False, tmp_path / "own.safetensors"), (False, state)):
        with pytest.raises(CheckpointError) as raised:
            from_pytorch(model, source)
        assert ("in the same order" in str(raised.value)) == advice
    found = re.search(r"^def renamed.*?(?=^```)", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    space = {"pytorch_names": pytorch_names}
    exec(found[0], space)
    space["renamed"](own, model)
    with pytest.raises(AssertionError, match="another order"):
        space["renamed"](state, model)


def test_a_prefix_is_found_in_a_file(tmp_path):
    from safetensors.numpy import save_file

    model = network("resnet20")
    save_file({f"module.{name}": value for name, value in to_pytorch(model).items()}, tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match="take the prefix away"):
        from_pytorch(model, tmp_path / "own.safetensors")


def test_a_negative_variance_is_refused():
    """As of tensors that were exchanged: predictions were NaN."""
    model = network("resnet20")
    state = to_pytorch(model)
    with pytest.raises(CheckpointError, match="1.running_var in the state dict holds -1; no variance is negative"):
        from_pytorch(model, state | {"1.running_var": np.full_like(state["1.running_var"], -1)})


# ---- with PyTorch ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch, a test oracle, is not installed")


def own_layers() -> Model:
    """Layers that the ready-made networks lack."""
    body = Sequential(ReLU(), Conv2d(4, 3, padding=1, stride=1), Tanh(), BatchNorm(activation="sigmoid"))
    return randomized(
        Model(
            Sequential(
                Conv2d(4, 3, padding="same"),
                Sigmoid(),
                Residual(body, activation="tanh"),
                Dropout(0.5),
                GELU(),
                SiLU(),
                Flatten(),
                Dense(6, bias=False, activation="gelu"),
                BatchNorm(activation="silu"),
                Dense(5, activation="leaky_relu"),
                LeakyReLU(0.3),
                Softmax(),
                Dense(3),
            ),
            (2, 6, 7),
        )
    )


@pytest.mark.pytorch
@pytest.mark.parametrize("name", [*NETWORKS, "own layers"])
def test_each_layer_computes_the_same(torch, name):
    """Both get the same input, so that the bound is the layer's own, without earlier layers' errors."""
    model = (own_layers() if name == "own layers" else network(name)).place(FAST)
    walk, seen = leaves(model.layer, FAST.pack(images(model, 3))), 0
    for layer, x in walk:
        if isinstance(layer, Residual):
            theirs = torch.from_numpy(x[0].numpy()) + torch.from_numpy(x[1].numpy())
            theirs = theirs.relu() if layer.activation == "relu" else theirs.tanh()
            ours = FAST.add(*x, relu=layer.activation == "relu")
            ours = FAST.elementwise("tanh", ours) if layer.activation == "tanh" else ours
        else:
            part = Model(copy.copy(layer), layer.input_shape)  # rebuilds what depends on the position in the network
            part.load_state_dict({name: p.value for name, p in (*layer.parameters(), *layer.statistics())})
            with torch.no_grad():
                theirs = pytorch_module(part)(torch.from_numpy(x.numpy()))
            ours = layer(x)[0]
        limit = bound(layer, x)
        if type(layer) in (Tanh, Sigmoid, GELU, SiLU, LeakyReLU, Softmax):  # a few roundings of their results
            limit = 16 * UNIT * np.maximum(np.abs(ours.numpy()), 1)
        assert np.all(np.abs(ours.numpy() - theirs.numpy()) <= limit), layer
        seen += 1
    assert seen == sum(not isinstance(layer, Sequential) for layer in model.layer.walk())


@pytest.mark.pytorch
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Upsample(2), (2, 3, 5)),
        (Upsample(size=(7, 4)), (1, 3, 5)),
        (Upsample(3, mode="linear"), (2, 6)),
        (Upsample(size=(5, 9), mode="linear"), (2, 3, 4)),
        (Upsample(2, mode="linear", align_corners=True), (1, 2, 3, 4)),
        (Pad(2), (2, 5)),
        (Pad(((1, 0), (2, 3)), mode="constant", value=0.5), (2, 3, 4)),
        (Pad(((1, 2), (3, 0)), mode="reflect"), (2, 5, 6)),
        (Pad(1, mode="replicate"), (1, 2, 3, 4)),
        (Pad(((0, 1), (2, 1)), mode="circular"), (2, 4, 5)),
        (AdaptiveAvgPool2d((2, 3)), (2, 5, 7)),
        (AdaptiveAvgPool1d(4), (2, 4)),
        (AdaptiveMaxPool2d(3), (2, 7, 4)),
        (AdaptiveMaxPool3d((1, 2, 2)), (2, 3, 5, 4)),
    ],
)
def test_layers_that_resample_compute_the_same(torch, layer, shape):
    """In float64: whatever differs is no rounding."""
    model = Model(Sequential(layer), shape, head="regressor")
    x = np.random.default_rng(2).standard_normal((3, *shape))
    theirs = pytorch_module(model).double()(torch.from_numpy(x)).numpy()
    ours = model.place(DOUBLE)(x)[0].numpy()
    assert theirs.shape == ours.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.pytorch
@pytest.mark.parametrize("name", [*NETWORKS, "own layers"])
def test_the_whole_network_computes_the_same(torch, name):
    """In float64 on both sides, to a float32 rounding of the largest output: 2**29 times the unit of float64."""
    model = own_layers() if name == "own layers" else network(name)
    x = images(model, 5).astype(np.float64)
    with torch.no_grad():
        theirs = pytorch_module(model).double()(torch.from_numpy(x)).numpy()
    ours = model.place(DOUBLE)(x)[0].numpy()
    assert np.abs(ours - theirs).max() <= UNIT * np.abs(ours).max()


@pytest.mark.pytorch
@pytest.mark.parametrize("name", NETWORKS)
def test_state_dicts_of_pytorch_are_taken(torch, name, tmp_path):
    from safetensors.torch import load_file, save_file

    model = network(name)
    module = pytorch_module(model)
    assert list(module.state_dict()) == list(to_pytorch(model))
    assert from_pytorch(fresh(name), module.state_dict()).weights_sha256() == model.weights_sha256()
    save_file(module.state_dict(), tmp_path / "theirs.safetensors")
    assert from_pytorch(fresh(name), tmp_path / "theirs.safetensors").weights_sha256() == model.weights_sha256()
    save_pytorch(model, tmp_path / "ours.safetensors")
    other = pytorch_module(fresh(name))
    other.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    assert all(
        torch.equal(a, b) for a, b in zip(other.state_dict().values(), module.state_dict().values(), strict=True)
    )


@pytest.mark.pytorch
def test_a_tensor_that_numpy_cannot_read_is_refused_by_its_name(torch):
    state = pytorch_module(network("mlp")).state_dict()
    for tensor in (state["1.weight"].to("meta"), state["1.weight"].to_sparse(), torch._neg_view(state["1.weight"])):
        with pytest.raises(CheckpointError, match=r"(?i)1.weight in the state dict is no array: can"):
            from_pytorch(fresh("mlp"), {**state, "1.weight": tensor})


@pytest.mark.pytorch
def test_bfloat16_and_tensors_that_require_gradients_are_taken(torch):
    model = network("mlp")
    module = pytorch_module(model)
    assert from_pytorch(fresh("mlp"), module.state_dict(keep_vars=True)).weights_sha256() == model.weights_sha256()
    rounded = {name: tensor.bfloat16() for name, tensor in module.state_dict().items()}
    taken = to_pytorch(from_pytorch(fresh("mlp"), rounded))
    assert all(np.array_equal(taken[name], rounded[name].float().numpy()) for name in taken)


@pytest.mark.pytorch
def test_a_torch_save_file_is_refused(torch, tmp_path):
    torch.save(pytorch_module(network("mlp")).state_dict(), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="pickle"):
        from_pytorch(fresh("mlp"), tmp_path / "w.pt")


@pytest.mark.pytorch
def test_the_documents_modules_take_the_weights(torch):
    """The modules that docs/pytorch.md defines in PyTorch: the same names, shapes and outputs."""
    namespace: dict = {}
    for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL):
        if "import torch\n" in code:
            exec(code, namespace)  # our own page
    for kind, shape, options in NETWORKS.values():
        if options.get("outputs"):
            continue
        model = randomized(build_model(kind, shape, **options))
        arguments = {"input_shape": shape, "classes": options.get("classes", 10)}
        arguments |= {key: value for key, value in options.items() if key in ("variant", "hidden")}
        module = namespace[kind](**arguments).eval()
        module.load_state_dict({name: torch.from_numpy(value) for name, value in to_pytorch(model).items()})
        x = torch.from_numpy(images(model, 2))
        with torch.no_grad():
            assert torch.equal(module(x), pytorch_module(model)(x))
