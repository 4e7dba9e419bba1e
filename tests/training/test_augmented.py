"""Training on augmented and on streamed images: the same bits everywhere, and files that keep what evaluation needs."""

import threading

import numpy as np
import pytest

import gpucnn
from gpucnn.backends import get_backend
from gpucnn.data import Mapped
from gpucnn.emulation import get_emulated_backend, why_not
from gpucnn.errors import CheckpointError, ConfigurationError, DataError, ShapeError
from gpucnn.layers import Dense, Sequential
from gpucnn.models import Model, lenet5
from gpucnn.parallel import Division
from gpucnn.training import Trainer, load_run
from gpucnn.training import data as training_data
from gpucnn.training.data import Resident, Streamed, placed
from gpucnn.training.normalization import channel_statistics
from gpucnn.training.settings import settings_of
from tests.training import small
from tests.training.test_resume import StopAfter

X, Y = small.data()
LARGER = np.pad(X, ((0, 0), (0, 0), (1, 2), (2, 1)), constant_values=0.25)
ALL = {"crop": True, "flip": True, "cutout": 3, "normalize": True, "shift": 1}


def trained(images=X, backend="numpy", math="exact", epochs=2, **settings):
    trainer = small.trainer(backend=backend, math=None if not isinstance(backend, str) else math, **settings)
    trainer.fit(images, Y, epochs)
    return trainer


def digest(*arguments, **settings):
    return trained(*arguments, **settings).model.weights_sha256()


# ---- augmented training ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def specified():
    return trained(LARGER, **ALL)


@pytest.mark.parametrize("threads", [1, 2])
def test_numba_gives_the_specified_weights(specified, threads):
    other = trained(LARGER, "numba", threads=threads, **ALL)
    assert other.model.weights_sha256() == specified.model.weights_sha256()
    assert other.evaluate(LARGER, Y) == specified.evaluate(LARGER, Y)
    assert np.array_equal(other.predict(LARGER), specified.predict(LARGER))


@pytest.mark.skipif(why_not() is not None, reason=f"emulation: {why_not()}")
@pytest.mark.parametrize("order", ["forward", 7])
def test_the_emulated_gpu_gives_the_specified_weights(specified, order):
    other = trained(LARGER, get_emulated_backend(order), **ALL)
    assert other.model.weights_sha256() == specified.model.weights_sha256()
    assert other.evaluate(LARGER, Y) == specified.evaluate(LARGER, Y)


def changed(images, rng):
    """As docs/recipes.md has it."""
    noise = np.float32(0.05) * rng.standard_normal(images.shape, np.float32)
    return images.like(images.data * np.float32(rng.uniform(0.7, 1.3)) + images.backend.pack(noise).data)


def test_random_numbers_of_each_images_own_give_the_same_weights_everywhere():
    assert digest(augment=changed) == digest(augment=changed, backend=get_backend("numba", threads=2)) != digest()


@pytest.mark.parametrize("seed", [0, 3, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1])
def test_a_change_of_ones_own_draws_by_all_64_bits_of_the_seed(seed, recwarn):
    """NumPy makes floats of a list of a number above 2**63 and a smaller one, and of these any key."""
    drawn = []

    def changed(images, rng):
        drawn.append(rng.integers(0, 2**32, 3))
        return images

    trained(seed=seed, epochs=1, augment=changed)
    for step, numbers in enumerate(drawn):
        expected = np.random.Generator(np.random.Philox(key=seed + (step << 64))).integers(0, 2**32, 3)
        assert np.array_equal(numbers, expected)
    assert len(drawn) == 3 and not recwarn.list


def test_each_part_changes_the_weights():
    variants = [{}, {"flip": True}, {"cutout": 2}, {"normalize": True}, {"shift": 0}]
    hashes = {digest(**variant) for variant in variants} | {digest(LARGER, crop=True)}
    assert len(hashes) == len(variants) + 1
    assert digest(crop=True) == digest()  # images of the model's own size: nothing is to be cropped


def test_evaluation_sees_the_middle_normalised_and_nothing_at_random(specified):
    model = specified.model
    mean, std = np.float32(model.mean[0]), np.float32(model.std[0])
    seen = (LARGER[:, :, 1:9, 1:9] - mean) * (np.float32(1) / std)
    plain = small.model()
    plain.load_state_dict(model.state_dict())
    other = Trainer(plain, backend="numpy", math="exact", progress=False)
    assert other.evaluate(seen, Y) == specified.evaluate(LARGER, Y)
    assert np.array_equal(other.predict(seen), specified.predict(LARGER))
    assert np.array_equal(model(LARGER)[0].numpy(), plain(seen)[0].numpy())


def test_a_file_keeps_how_images_come_in(specified, tmp_path):
    gpucnn.save(specified.model, tmp_path / "a.safetensors")
    again = gpucnn.load(tmp_path / "a.safetensors", small.model())
    assert (again.image_shape, again.mean, again.std) == ((1, 11, 11), specified.model.mean, specified.model.std)
    other = Trainer(again, backend="numpy", math="exact", progress=False)
    assert np.array_equal(other.predict(LARGER), specified.predict(LARGER))
    gpucnn.save(lenet5().initialize(0), tmp_path / "plain.safetensors")
    plain = gpucnn.load(tmp_path / "plain.safetensors")
    assert (plain.image_shape, plain.mean, plain.std) == ((1, 32, 32), None, None)


@pytest.mark.parametrize("other", ["numpy", "numba"])
def test_an_interrupted_augmented_run_continues_to_the_same_bits(tmp_path, other):
    whole = digest(LARGER, epochs=4, **ALL)
    with pytest.raises(KeyboardInterrupt):
        small.trainer(tmp_path, math="exact", progress=StopAfter(2), **ALL).fit(LARGER, Y, 4)
    assert load_run(tmp_path, small.model()).model.image_shape == (1, 11, 11)
    resumed = small.trainer(tmp_path, other, math="exact", **ALL)
    resumed.fit(LARGER, Y, 4, resume=True)
    assert resumed.model.weights_sha256() == whole


@pytest.mark.parametrize(("name", "value"), [("flip", False), ("cutout", 2), ("normalize", False)])
def test_resuming_with_other_augmentation_is_refused(tmp_path, name, value):
    small.trainer(tmp_path, **ALL).fit(LARGER, Y, 1)
    with pytest.raises(CheckpointError, match=name):
        small.trainer(tmp_path, **{**ALL, name: value}).fit(LARGER, Y, 1, resume=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cutout": -1}, "cutout is -1"),
        ({"cutout": 9}, "from 0 to 8"),
        ({"cutout": True}, "cutout is True"),
        ({"crop": 6}, "crop is 6 of type int; give True or False"),
        ({"flip": "no"}, "flip is 'no'"),
        ({"normalize": 1}, "normalize is 1"),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        small.trainer(**settings)


def test_unfit_images():
    with pytest.raises(ShapeError, match="this model takes"):
        small.trainer().fit(LARGER, Y, 1)
    for images in (X[:, :, 1:], np.concatenate([X, X], 1), X[:, 0]):
        with pytest.raises(ShapeError, match="to crop them to this model's"):
            small.trainer(crop=True).fit(images, Y, 1)
    flat = Model(Sequential(Dense(3)), (64,))
    for name in ("crop", "flip"):
        with pytest.raises(ConfigurationError, match="crop and flip need images"):
            Trainer(flat, backend="numpy", progress=False, **{name: True})
    with pytest.raises(DataError, match="channel 0 is the same in all training images"):
        small.trainer(normalize=True).fit(np.ones_like(X), Y, 1)
    with pytest.raises(DataError, match=r"or almost, and cannot be normalized: its standard deviation is \d.*e-4\d$"):
        small.trainer(normalize=True).fit(X * np.float32(1e-40), Y, 1)


# ---- mean and deviation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 2, 1), (45, 1, 8, 8), (33, 3, 5, 7), (7, 2, 13)])
def test_statistics(shape, monkeypatch):
    import gpucnn.data.mapped as module

    images = np.random.default_rng(shape).normal(3, 2, shape).astype(np.float32)
    mean, std = channel_statistics(images)
    axes = (0, *range(2, len(shape)))
    # Rounded to float32 once, of sums with errors far below that.
    assert np.allclose(mean, images.astype(np.float64).mean(axes), rtol=2**-23, atol=0)
    assert np.allclose(std, images.astype(np.float64).std(axes), rtol=2**-22, atol=0)
    monkeypatch.setattr(module, "_PART", 1)  # image by image
    assert channel_statistics(images) == (mean, std) == channel_statistics(Mapped(images))


# ---- streamed --------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_disk(tmp_path):
    """X as a memory-mapped file; and as bytes, with the floats that those stand for."""
    np.save(tmp_path / "x.npy", X)
    counts = np.round(X * 150).astype(np.uint8)
    np.save(tmp_path / "bytes.npy", counts)
    mapped = [np.load(tmp_path / name, mmap_mode="r") for name in ("x.npy", "bytes.npy")]
    return {
        "floats": (mapped[0], X),
        "bytes": (mapped[1], counts.astype(np.float32)),
        "scaled bytes": (Mapped(mapped[1], scale=True), counts.astype(np.float32) / np.float32(255)),
    }


@pytest.mark.parametrize("kind", ["floats", "bytes", "scaled bytes"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_streamed_images_give_the_bits_of_resident_ones(on_disk, kind, backend, monkeypatch):
    mapped, whole = on_disk[kind]
    settings = {"flip": True, "cutout": 2, "normalize": True}
    resident = trained(whole, backend, **settings)
    made = []
    monkeypatch.setattr(Streamed, "_forget", lambda self, of=Streamed._forget: (made.append(self), of(self))[1])
    streamed = trained(mapped, backend, **settings)
    assert made  # it was streamed
    assert streamed.model.weights_sha256() == resident.model.weights_sha256()
    assert streamed.evaluate(mapped, Y) == resident.evaluate(whole, Y)
    assert np.array_equal(streamed.predict(mapped), resident.predict(whole))
    assert (
        settings_of(streamed, 2, mapped if isinstance(mapped, Mapped) else Mapped(mapped), Y)["data_sha256"]
        == (settings_of(resident, 2, whole, Y)["data_sha256"])
    )


@pytest.mark.skipif(why_not() is not None, reason=f"emulation: {why_not()}")
def test_streamed_to_the_emulated_gpu(on_disk):
    mapped, whole = on_disk["scaled bytes"]
    assert digest(mapped, get_emulated_backend()) == digest(whole)


def test_validation_may_be_streamed_too(on_disk):
    mapped, whole = on_disk["scaled bytes"]
    histories = [
        small.trainer().fit(x, Y, 2, validation=(x[:20] if x is whole else x.select(slice(20)), Y[:20]))
        for x in (mapped, whole)
    ]
    assert histories[0]["validation_loss"] == histories[1]["validation_loss"]


def test_a_streamed_run_resumes_and_so_does_a_resident_one_from_it(on_disk, tmp_path):
    mapped, whole = on_disk["floats"]
    expected = digest(whole, math="exact", epochs=4)
    for first, second in ((mapped, mapped), (mapped, whole), (whole, mapped)):
        folder = tmp_path / f"{type(first).__name__}-{type(second).__name__}"
        with pytest.raises(KeyboardInterrupt):
            small.trainer(folder, progress=StopAfter(2)).fit(first, Y, 4)
        resumed = small.trainer(folder)
        resumed.fit(second, Y, 4, resume=True)
        assert resumed.model.weights_sha256() == expected


def test_an_interruption_leaves_no_thread(on_disk, tmp_path):
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        small.trainer(progress=StopAfter(1, inside=True)).fit(on_disk["floats"][0], Y, 4)
    assert set(threading.enumerate()) <= before


def test_what_is_larger_than_half_the_memory_is_streamed(monkeypatch):
    backend = get_backend("numpy")
    assert backend.memory() > 1 << 28
    for memory, kind in ((2 * X.nbytes, Resident), (2 * X.nbytes - 2, Streamed), (0, Resident)):
        monkeypatch.setattr(type(backend), "memory", lambda self, memory=memory: memory)
        assert type(placed(backend, X, Y, 16)) is kind
    monkeypatch.setattr(type(backend), "memory", lambda self: 1)
    resident_share = training_data._RESIDENT_SHARE
    streamed = digest()
    monkeypatch.setattr(training_data, "_RESIDENT_SHARE", resident_share * 1e9)
    assert digest() == streamed


def test_a_float_that_is_not_finite_is_found_before_training(tmp_path):
    images = X.copy()
    images[30, 0, 1, 1] = np.nan
    np.save(tmp_path / "x.npy", images)
    with pytest.raises(DataError, match="image 30 holds a NaN"):
        small.trainer().fit(np.load(tmp_path / "x.npy", mmap_mode="r"), Y, 1)


class TestStreamed:
    """The reader by itself."""

    def test_batches_out_of_turn_are_right_too(self):
        data = Streamed(get_backend("numpy"), Mapped(X), Y.astype(np.int32), 16, Division())
        order = np.random.default_rng(0).permutation(45)
        parts = data.batches(order)
        for chosen in (parts[0], parts[2], np.arange(5), parts[1]):
            data.choose(chosen)
            assert np.array_equal(data.images[: len(chosen)], X[chosen])
            assert np.array_equal(data.labels[: len(chosen)], Y[chosen])
        data.close()

    def test_it_reads_ahead_and_no_further_than_two_batches(self):
        class Counting(Mapped):
            def take(self, numbers, out=None):
                taken.append(len(numbers))
                reached.release()
                return super().take(numbers, out)

        taken, reached = [], threading.Semaphore(0)
        data = Streamed(get_backend("numpy"), Counting(X), None, 5, Division())
        parts = data.batches(np.arange(45))
        for _ in range(2):
            assert reached.acquire(timeout=10)
        assert taken == [5, 5]  # before anybody asked
        data.choose(parts[0])
        assert reached.acquire(timeout=10)
        assert taken == [5, 5, 5]
        data.close()

    def test_an_error_while_reading_reaches_the_trainer(self):
        class Broken(Mapped):
            def take(self, numbers, out=None):
                if out is not None:
                    raise OSError("the disk is gone")
                return super().take(numbers, out)

        with pytest.raises(OSError, match="the disk is gone"):
            small.trainer().fit(Broken(X), Y, 1)
