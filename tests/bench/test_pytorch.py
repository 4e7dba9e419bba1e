"""The peer computes the same network; where PyTorch is not installed there is nothing to test."""

import itertools

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.errors import ConfigurationError
from gpucnn.layers import Conv2d, Dropout, Sequential
from gpucnn.models import Model
from gpucnn.throughput import Case, bench, operations, pytorch
from gpucnn.throughput.agreement import Referee

torch = pytest.importorskip("torch", reason="PyTorch, the benchmark's optional peer, is not installed")
pytestmark = pytest.mark.pytorch


@pytest.mark.parametrize("name", ["lenet5", "vgg_small", "resnet20", "mlp"])
def test_one_step_agrees_with_float64_on_numpy(name):
    """Another implementation of every layer, loss and optimizer, so this also tests ours."""
    case = Case(name, "training", 4)
    referee = Referee(case)
    state = pytorch.one_step(case, threads=2)
    assert state.keys() == {*case.build().state_dict(), "class scores"}
    assert referee.judge("PyTorch", state, False) < referee.tolerance


def test_translation_names_every_tensor():
    model = Case("resnet20", "training", 1).build()
    tensors = pytorch.tensors(pytorch.translate(model), model)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {n: v.shape for n, v in model.state_dict().items()}


def test_what_has_no_counterpart_is_refused():
    class Own(Dropout):
        """A subclass that computes something else."""

        def __call__(self, x):
            return x, lambda dy: dy

    for layer in (Own(0.5), Conv2d(2, 3, padding=((0, 1), (0, 1)))):
        with pytest.raises(ConfigurationError):
            pytorch.translate(Model(Sequential(layer), (1, 8, 8)))


@pytest.mark.parametrize("variant", pytorch.variants("training", "cpu", compiled=False, reduced=False), ids=str)
def test_training_variants_do_the_same_steps(variant):
    """From the same start, four steps of each variant over the same batches end close to those of plain SGD."""
    case = Case("lenet5", "training", 256)
    model = case.build()
    images, labels = case.data()
    network = pytorch.translate(model)
    inputs, targets = (torch.from_numpy(a).split(256) for a in (images, labels.astype(np.int64)))
    call = pytorch._training_step(network, inputs, targets, variant)
    for _ in range(4):
        call()
    plain = pytorch.translate(model)
    optimizer = torch.optim.SGD(plain.parameters(), pytorch.LEARNING_RATE, pytorch.MOMENTUM)
    for x, t in zip(inputs, targets, strict=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(plain(x), t).backward()
        optimizer.step()
    plain_names = pytorch.tensors(plain, model)
    for name, tensor in pytorch.tensors(network, model).items():
        moved = (plain_names[name] - torch.from_numpy(model.state_dict()[name])).norm()
        assert (tensor - plain_names[name]).norm() <= 1e-2 * moved + 1e-6, name


def test_variants_cover_what_is_promised():
    cpu = {v.describe("training") for v in pytorch.variants("training", "cpu", compiled=True, reduced=False)}
    assert cpu == {
        f"{way}, {layout}, {kind} SGD"
        for way in ("eager", "compiled")
        for layout in pytorch.LAYOUTS
        for kind in ("foreach", "fused")
    }
    gpu = pytorch.variants("training", "cuda", compiled=True, reduced=True)
    assert len(set(gpu)) == len(gpu)
    assert {(v.compiled, v.graph) for v in gpu} == {("", False), ("", True), ("compiled", True)}
    assert {(v.layout, v.precision) for v in gpu} == set(itertools.product(pytorch.LAYOUTS, pytorch.PRECISIONS))
    # As it comes, and with everything that serves fixed sizes.
    assert {v.benchmark for v in gpu if not v.graph and v.precision == "float32"} == {False, True}
    assert all(v.benchmark for v in gpu if v.graph)
    assert all(pytorch.precision(v.describe("training")) == v.precision for v in gpu)
    assert len({v.describe("training") for v in gpu}) == len(gpu)


def test_thread_counts_are_set_within():
    before = torch.get_num_threads()
    with pytorch.using(1, inference=True):
        assert torch.get_num_threads() == 1 and torch.is_inference_mode_enabled()
    assert not torch.is_inference_mode_enabled()
    torch.set_num_threads(before)


def test_a_compiler_that_fails_becomes_a_note(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", fail)
    kept, rates, notes = pytorch.trial(
        Case("lenet5", "inference", 4), "cpu", 1, compiled=True, seconds=0.02, say=lambda text: None
    )
    assert kept and set(rates) == {"eager, contiguous", "eager, channels_last"}
    assert len(notes) == 4 and all("RuntimeError: no C++ compiler" in n and "story" not in n for n in notes)


def test_nothing_is_compiled_after_the_deadline(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    case = Case("lenet5", "inference", 4)
    _, _, notes = pytorch.trial(case, "cpu", 1, compiled=True, seconds=0.02, say=lambda text: None, deadline=0.0)
    assert len(notes) == 4 and all("no time left" in note for note in notes)


@pytest.mark.slow
def test_torch_compile_runs_or_says_why_not():
    case = Case("lenet5", "inference", 4)
    _, rates, notes = pytorch.trial(case, "cpu", 1, compiled=True, seconds=0.05, say=lambda text: None)
    assert len(rates) + len(notes) == 6


def test_ratios_compare_the_same_number_of_threads():
    report = bench([Case("lenet5", "inference", 2)], [get_backend("numpy", "fast")], seconds=0.1, compiled=False)
    (ratio,) = {(r["backend"], r["threads"]): r for r in report["ratios"] if r["peer"] == "pytorch"}.values()
    peers = [row for row in report["results"] if row["backend"] == "pytorch"]
    assert peers and all(row["threads"] == ratio["threads"] for row in peers)
    assert ratio["variant"] == max(peers, key=lambda row: row["images_per_second"])["variant"]
    assert ratio["quartiles"][0] <= ratio["ratio"] <= ratio["quartiles"][1]
    assert set(peers[0]["variants"]) == {"eager, contiguous", "eager, channels_last"}


def test_convolution_contenders_compute_the_three_passes():
    convolution = operations.Convolution(6, 2, 3)
    x, w, dy = operations.arrays(convolution, 2)
    contenders = pytorch.convolution_contenders(x, w, dy, 1, 1)
    assert len(contenders) == 6
    results = {}
    for (_, name, layout), contender in contenders.items():
        result = contender.call()
        if name != "forward":
            (result,) = (part for part in result if part is not None)
        results.setdefault(layout, {})[name] = result.numpy()
    for layout in pytorch.LAYOUTS:
        reference = get_backend("numpy", "fast", dtype=np.float64)
        assert operations.largest_error(convolution, 2, results[layout], reference) < 1
