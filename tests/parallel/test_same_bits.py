"""Several processes and several pieces give the bits of one. The processes are threads; tests/parallel/test_mpi.py has
real ones."""

import functools

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import BackendError, ConfigurationError, DataError, ProcessError
from gpucnn.layers import Dense, Flatten, Layer, Sequential
from gpucnn.losses import Huber
from gpucnn.models import Model
from gpucnn.training import Callback, Trainer
from tests.parallel.nets import COUNTS, SMOOTHED, WEIGHTED, digits, train
from tests.parallel.threads import run

# 150 images are ten blocks, the last batch is short: with 2, 3, 4, 5 and 8 processes some parts are short or empty.
SETTINGS = {"images": 270, "batch": 150, "shift": 1, "flip": True, "cutout": 3, "clip_norm": 0.5, "clip_value": 0.1}
emulated = pytest.mark.skipif(why_not() is not None, reason=f"emulation: {why_not()}")
VALIDATED = {"validation": 0.2, "patience": 1, "monitor": "loss"}


def numba(rank=0):
    return get_backend("numba", threads=1)


@pytest.mark.parametrize("loss", [None, WEIGHTED], ids=["plain", "weighted"])
def test_everything_at_once(loss):
    settings = {**SETTINGS, "fit": VALIDATED, "loss": loss}
    expected = train("everything", numba(), **settings)
    for count in COUNTS:
        assert run(count, lambda p: train("everything", numba(), p, **settings)) == [expected] * count


def test_lenet5():
    settings = {"images": 200, "batch": 80, "shift": 2, "epochs": 1}
    expected = train("lenet5", numba(), **settings)
    for count in COUNTS:
        assert run(count, lambda p: train("lenet5", numba(), p, **settings)) == [expected] * count


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg_small", "resnet20"])
def test_large_networks(name):
    settings = {"images": 100, "batch": 70, "epochs": 1}
    expected = train(name, numba(), **settings)
    for count in COUNTS:
        assert run(count, lambda p: train(name, numba(), p, **settings)) == [expected] * count


def test_numba_and_the_specification_in_one_run():
    settings = {"images": 80, "batch": 40, "epochs": 1, "shift": 1, "fit": VALIDATED}
    backends = [numba(), get_backend("numpy"), numba()]
    expected = train("everything", numba(), **settings)
    assert run(3, lambda p: train("everything", backends[p.rank], p, **settings)) == [expected] * 3


@emulated
def test_gpus_and_cpus_in_one_run():
    settings = {"images": 80, "batch": 40, "epochs": 1, "shift": 1, "fit": VALIDATED, "clip_norm": 0.5}
    expected = train("everything", get_backend("numpy"), **settings)
    for backends in ([get_emulated_backend, numba], [numba, get_emulated_backend, get_emulated_backend]):
        found = run(len(backends), lambda p, b=backends: train("everything", b[p.rank](), p, **settings))
        assert found == [expected] * len(backends)


@emulated
@pytest.mark.slow
@pytest.mark.parametrize("name", ["everything", "lenet5"])
def test_emulated_cuda(name):
    settings = {"images": 60, "batch": 40, "epochs": 1, "shift": 1, "loss": SMOOTHED}
    expected = train(name, numba(), **settings)
    for count in (2, 3):
        assert run(count, lambda p: train(name, get_emulated_backend(), p, **settings)) == [expected] * count


# Three blocks, of which the last has three images.
NETWORKS = ["lenet5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg_small", "resnet20"))]


@functools.cache
def on_a_cpu(name):
    return train(name, numba(), images=35, batch=35, epochs=1)


def _networks_and_counts():
    """The larger networks are among the long tests: in 3 processes, one a GPU, they are trained each time (below)."""
    for count in COUNTS:
        yield pytest.param("lenet5", count)
        for name in ("vgg_small", "resnet20"):
            yield pytest.param(name, count, marks=pytest.mark.long)


@emulated
@pytest.mark.parametrize(("name", "count"), list(_networks_and_counts()))
def test_all_networks_on_emulated_cuda(name, count):
    found = run(count, lambda p: train(name, get_emulated_backend(), p, images=35, batch=35, epochs=1))
    assert found == [on_a_cpu(name)] * count


@emulated
@pytest.mark.parametrize("name", NETWORKS)
def test_all_networks_on_gpus_and_cpus(name):
    backends = [numba, get_emulated_backend, numba]
    found = run(3, lambda p: train(name, backends[p.rank](), p, images=35, batch=35, epochs=1))
    assert found == [on_a_cpu(name)] * 3


def test_metrics_see_every_image_in_its_order():
    settings = {"images": 60, "batch": 48, "epochs": 2, "metrics": ["top3", "f1"], "fit": {"validation": 0.2}}
    numpy = get_backend("numpy")

    def once(processes=1, **more):
        histories = []

        class Keep(Callback):
            def on_train_end(self, trainer, history):
                names = ("top3", "f1", "validation_top3", "validation_f1", "accuracy")
                histories.extend(history[name] for name in names)

        return train("no batch norm", numpy, processes, callbacks=[Keep()], **settings, **more), histories

    expected = once()
    assert all(None not in values for values in expected[1])
    assert run(3, once) == [expected] * 3
    assert once(pieces=2) == expected


@pytest.mark.parametrize("images", [1, 16, 17, 33, 70])
def test_batches_smaller_than_the_processes(images):
    settings = {"images": images, "batch": 33, "epochs": 2, "shift": 1}
    expected = train("no batch norm", numba(), **settings)
    for count in (2, 5):
        assert run(count, lambda p: train("no batch norm", numba(), p, **settings)) == [expected] * count


@pytest.mark.parametrize("loss", [None, SMOOTHED, WEIGHTED], ids=["plain", "smoothed", "weighted"])
def test_pieces(loss):
    settings = {**SETTINGS, "loss": loss, "fit": VALIDATED}
    expected = train("no batch norm", numba(), **settings)
    for pieces in (2, 3, 8, 100):
        assert train("no batch norm", numba(), pieces=pieces, **settings) == expected
    assert run(3, lambda p: train("no batch norm", numba(), p, pieces=2, **settings)) == [expected] * 3
    small = {"images": 40, "batch": 40, "epochs": 1}
    expected = train("no batch norm", numba(), **small)
    assert train("no batch norm", get_backend("numpy"), pieces=3, **small) == expected


def test_losses_of_values():
    images, labels = digits(8)
    targets = np.eye(10, dtype=np.float32)[labels]

    def once(processes=1, pieces=1):
        model = Model(Sequential(Flatten(), Dense(10)), (1, 8, 8), head="regressor")
        trainer = Trainer(
            model, backend=numba(), loss=Huber(0.5), batch_size=90, progress=False, processes=processes, pieces=pieces
        )
        history = trainer.fit(images[:200], targets[:200], 2)
        return model.weights_sha256(), history["loss"]

    expected = once()
    assert run(4, once) == [expected] * 4
    assert once(pieces=4) == expected


def test_long_vectors_are_added_in_slices():
    """A network with more weights than one message takes."""
    images, labels = digits(32)

    def once(processes=1):
        model = Model(Sequential(Flatten(), Dense(80), Dense(10)), (1, 32, 32))
        trainer = Trainer(model, backend=numba(), batch_size=96, progress=False, processes=processes)
        trainer.fit(images[:150], labels[:150], 1)
        return model.weights_sha256()

    expected = once()
    for count in (2, 3, 5):
        assert run(count, once) == [expected] * count


def test_images_larger_than_memory_are_read_in_parts(tmp_path):
    images, labels = digits(8)
    np.save(tmp_path / "images.npy", images[:100])
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")

    def once(processes=1):
        model = Model(Sequential(Flatten(), Dense(10)), (1, 8, 8))
        trainer = Trainer(model, backend=numba(), batch_size=48, progress=False, processes=processes)
        trainer.fit(mapped, labels[:100], 2, validation=0.3)
        return model.weights_sha256()

    expected = once()
    assert run(3, once) == [expected] * 3


def test_a_run_goes_on_in_another_number_of_processes(tmp_path):
    settings = {**SETTINGS, "epochs": 4}
    fit = {"validation": 0.2}
    expected = train("everything", numba(), **settings, fit=fit)

    class Stop(Callback):
        def on_epoch_end(self, trainer, record):
            trainer.stop_training()

    here = {"run": tmp_path / "run"}
    run(3, lambda p: train("everything", numba(), p, **settings, **here, fit=fit, callbacks=[Stop()]))
    resumed = {**fit, "resume": True}
    for count in (2, 1):
        run(count, lambda p: train("everything", numba(), p, **settings, **here, fit=resumed, callbacks=[Stop()]))
    assert run(5, lambda p: train("everything", numba(), p, **settings, **here, fit=resumed)) == [expected] * 5


def test_one_process_writes_and_speaks(tmp_path, capfd):
    run(3, lambda p: train("no batch norm", numba(), p, images=60, batch=48, run=tmp_path / "run", progress=None))
    assert sorted(f.name for f in (tmp_path / "run").iterdir()) == [
        "checkpoint.safetensors", "config.json", "curves.png", "metrics.jsonl",
    ]  # fmt: skip
    assert [line.split()[0:2] for line in capfd.readouterr().err.splitlines()] == [
        ["training", "everything"], ["epoch", "1/2"], ["epoch", "2/2"],
    ]  # fmt: skip


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(ConfigurationError, match="needs the statistics of the whole batch.*use pieces=1"):
        train("everything", numba(), images=60, batch=48, pieces=2)
    with pytest.raises(BackendError, match="numpy with fast math cannot compute a part"):
        train("no batch norm", get_backend("numpy", "fast"), images=60, batch=48, pieces=2)

    class Own(Layer):
        def __call__(self, x):
            return x, lambda dy: dy

    def own(processes=1):
        model = Model(Sequential(Flatten(), Own(), Dense(10)), (1, 8, 8))
        images, labels = digits(8)
        Trainer(model, backend=numba(), progress=False, processes=processes).fit(images[:40], labels[:40], 1)

    own()
    with pytest.raises(ConfigurationError, match="Own does not declare recordable = True"):
        run(2, own)
    with pytest.raises(ConfigurationError, match="processes is 4, but 1 was started; start them with mpirun -n 4"):
        train("no batch norm", numba(), 4, images=60, batch=48)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 32}, "process 1 differs from process 0: batch_size is 48 there and 32 here"),
        ({"images": 59}, "process 1 differs from process 0: images is 60 there and 59 here"),
        ({"seed": 4}, "process 1 differs from process 0: seed is 3 there and 4 here"),
        ({"epochs": 3}, "process 1 differs from process 0: epochs is 2 there and 3 here"),
    ],
)
def test_other_settings_end_the_run(change, words):
    settings = {"images": 60, "batch": 48}
    with pytest.raises(ProcessError, match=words):
        run(3, lambda p: train("no batch norm", numba(), p, **{**settings, **(change if p.rank == 1 else {})}))


def test_an_error_of_one_is_raised_by_all():
    def once(processes):
        images, labels = digits(8)
        labels = labels[:40] + (100 if processes.rank == 2 else 0)
        model = Model(Sequential(Flatten(), Dense(10)), (1, 8, 8))
        with pytest.raises(DataError, match="label 1.. of image . is out of range") as caught:
            Trainer(model, backend=numba(), progress=False, processes=processes).fit(images[:40], labels, 1)
        return caught.value.shared

    assert run(3, once) == [True] * 3


def test_a_weight_that_differs_is_noticed(tmp_path):
    class Flip(Callback):
        def __init__(self, rank):
            self.rank = rank

        def on_epoch_end(self, trainer, record):
            if self.rank == 1 and record["epoch"] == 2:
                trainer.model.values.view(np.uint32)[7] ^= 1  # one bit

    def once(p):
        return train(
            "no batch norm", numba(), p, images=60, batch=48, epochs=3, run=tmp_path / "run", callbacks=[Flip(p.rank)]
        )

    with pytest.raises(ProcessError, match="process 1 has other weights than process 0"):
        run(3, once)
    kept = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(kept) == 1  # what was written before the fault stays
