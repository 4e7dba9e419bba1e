"""Every option of training in several processes and pieces: the bits of one."""

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.shares import Share, sharing
from gpucnn.emulation import get_emulated_backend
from gpucnn.errors import ProcessError
from gpucnn.layers import BatchNorm, Concat, Conv2d, Dense, Flatten, GroupNorm, MaxPool2d, Residual, Sequential
from gpucnn.losses import Dice, SoftmaxCrossEntropy
from gpucnn.models import Model
from gpucnn.optimizers import SGD
from gpucnn.training import Trainer
from gpucnn.training.validation import split
from tests.parallel.nets import COUNTS, WEIGHTED, digits
from tests.parallel.test_same_bits import emulated, numba
from tests.parallel.threads import run

SEED, VALIDATION = 4, 0.2
IMAGES, BATCH = 270, 150  # ten blocks, then eight, the last of which is short
PIECES = 2, 3, 100


def mean_and_noise(images, rng):
    """Depends on the whole batch, and on how many numbers were drawn for others."""
    values = images.numpy()
    noise = rng.standard_normal(values.shape, np.float32) * np.float32(0.05)
    return images.backend.pack(values - values.mean(0, keepdims=True) + noise)


def net(norm=None):
    norm = norm or GroupNorm(2)
    return Model(Sequential(Conv2d(4, 3), norm, MaxPool2d(2), Flatten(), Dense(10)), (1, 8, 8))


def shared(norm):
    """A convolution in three places, a block in two, one of which is in a branch."""
    conv = Conv2d(4, 3, padding=1, activation="relu")
    block = Sequential(Conv2d(4, 3, padding=1, bias=norm is None), *([norm] if norm else []))
    first = Conv2d(4, 3, stride=2, padding=1)
    return Model(Sequential(first, conv, conv, block, Concat(conv, block), Flatten(), Dense(10)), (1, 8, 8))


def segmenter():
    first, last = Conv2d(4, 3, padding=1, activation="relu"), Conv2d(3, 1)
    return Model(Sequential(first, Residual(GroupNorm(2)), last), (1, 8, 8))


def few(labels, ignored):
    """Those of one image to train on and one for validation; all others are `ignored`."""
    training, kept = split(np.zeros(IMAGES), VALIDATION, SEED)
    images = np.isin(np.arange(len(labels)), [training[-1], kept[-1]])
    return np.where(images.reshape(-1, *[1] * (labels.ndim - 1)), labels, ignored)


def maps(images):
    """Classes by brightness, and one in seven pixels to ignore; no labels at all in the first 32 images."""
    labels = np.digitize(images[:, 0], [0.2, 0.7])
    labels.reshape(-1)[::7] = 9
    labels[:32] = 9
    return labels


MAP_LOSS = SoftmaxCrossEntropy(0.1, [1.0, 2.5, 0.3], ignore_index=9)


def once(make, processes=1, pieces=1, *, labels=None, backend=None, mapped=None, **settings):
    """(hash of the weights, losses, validation losses)."""
    images, classes = digits(8)
    images, labels = images[:IMAGES], (classes if labels is None else labels(images))[:IMAGES]
    trainer = Trainer(
        make(), backend=backend or numba(), processes=processes, pieces=pieces,
        **{"optimizer": SGD(0.05), "batch_size": BATCH, "seed": SEED, "progress": False, "shift": 1, **settings},
    )  # fmt: skip
    history = trainer.fit(images if mapped is None else mapped, labels, 2, validation=VALIDATION)
    return trainer.model.weights_sha256(), history["loss"], history["validation_loss"]


def same_everywhere(work, pieces=True):
    """`work(processes, pieces)` in every number of processes, in pieces, and in both."""
    expected = work()
    for count in COUNTS:
        assert run(count, work) == [expected] * count
    for number in PIECES if pieces else ():
        assert work(1, number) == expected
    if pieces:
        assert run(3, lambda p: work(p, 2)) == [expected] * 3


OPTIONS = {
    "own augmentation": {"augment": mean_and_noise},
    "mix-up": {"mixup": 0.4, "flip": True},
    "erasing": {"erase": 0.6, "cutout": 2},
    "all of them, weighted": {"augment": mean_and_noise, "mixup": 1.0, "erase": 0.5, "loss": WEIGHTED},
    "averaged, rates by layer, clipped": {"ema": 0.9, "lr_factors": {"0": 0.1}, "clip_norm": 0.1, "normalize": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_augmentation_of_whole_batches_and_more(name):
    same_everywhere(lambda processes=1, pieces=1: once(net, processes, pieces, **OPTIONS[name]))


def test_augmentation_with_batch_norm():
    settings = OPTIONS["all of them, weighted"]
    same_everywhere(lambda processes=1, pieces=1: once(lambda: net(BatchNorm()), processes, **settings), pieces=False)


def test_frozen_batch_norm_in_pieces():
    def make():
        model = net(BatchNorm())
        model.freeze("1")
        return model

    same_everywhere(lambda processes=1, pieces=1: once(make, processes, pieces))


@pytest.mark.parametrize("norm", [pytest.param("group", marks=pytest.mark.slow), "batch", None])
def test_layers_in_several_places(norm):
    norms = {"group": lambda: GroupNorm(2), "batch": BatchNorm, None: lambda: None}

    def work(processes=1, pieces=1):
        return once(lambda: shared(norms[norm]()), processes, pieces)

    same_everywhere(work, pieces=norm != "batch")


@pytest.mark.parametrize("loss", [MAP_LOSS, Dice(0.5, ignore_index=9)], ids=["cross-entropy", "dice"])
def test_label_maps(loss):
    more = {"loss": loss, "flip": True, "labels": maps}
    same_everywhere(lambda processes=1, pieces=1: once(segmenter, processes, pieces, **more))
    numpy = get_backend("numpy")
    expected = once(segmenter, **more)
    assert once(segmenter, 1, 3, backend=numpy, **more) == expected
    backends = numba(), numpy
    assert run(2, lambda p: once(segmenter, p, backend=backends[p.rank], **more)) == [expected] * 2


@emulated
@pytest.mark.slow
def test_emulated_cuda():
    settings = {"mixup": 0.5, "erase": 0.5, "augment": mean_and_noise, "loss": WEIGHTED}
    expected = once(lambda: shared(GroupNorm(2)), **settings)

    def work(processes=1, pieces=1):
        return once(lambda: shared(GroupNorm(2)), processes, pieces, backend=get_emulated_backend(), **settings)

    assert run(2, work) == [expected] * 2
    assert work(1, 3) == expected


@emulated
@pytest.mark.parametrize("loss", [MAP_LOSS, Dice(0.5, ignore_index=9)], ids=["cross-entropy", "dice"])
def test_label_maps_on_emulated_cuda(loss):
    more = {"loss": loss, "flip": True, "mixup": 0.5, "labels": maps}

    def work(processes=1, pieces=1):
        return once(segmenter, processes, pieces, backend=get_emulated_backend(), **more)

    assert work() == once(segmenter, backend=get_backend("numpy"), **more)
    same_everywhere(work)


@emulated
def test_classes_to_ignore_on_emulated_cuda():
    """One label an image, which counts or not; then a batch in which none counts."""
    for labels in (None, lambda images: few(np.ones(len(images), int), 3)):
        more = {"loss": SoftmaxCrossEntropy(ignore_index=3), "labels": labels}

        def work(processes=1, pieces=1, more=more):
            return once(net, processes, pieces, backend=get_emulated_backend(), **more)

        assert work() == once(net, backend=get_backend("numpy"), **more)
        same_everywhere(work)


def test_what_fills_the_last_block_of_a_part_has_no_dice():
    """Whatever it is: operations leave anything there."""
    backend, rng, sums = numba(), np.random.default_rng(0), []
    p = backend.softmax(backend.pack(rng.standard_normal((22, 3, 4, 4), np.float32)))
    labels = backend.pack(rng.integers(0, 4, (22, 1, 4, 4)).astype(np.float32))

    class Keep:
        def later(self, values, finish):
            sums.append(values.copy())

    def gradient():
        with sharing(Share(128, 150, Keep())):
            return backend.dice(p, labels, 1.0)[1].numpy()

    expected = gradient()
    labels.data[-1, ..., 22 - 16 :] = 2
    p.data[-1, ..., 22 - 16 :] = 0.25
    assert gradient().tobytes() == expected.tobytes()
    assert sums[0].tobytes() == sums[1].tobytes()


def test_label_maps_mixed():
    more = {"loss": MAP_LOSS, "labels": maps, "mixup": 0.5, "erase": 0.5}
    same_everywhere(lambda processes=1, pieces=1: once(segmenter, processes, pieces, **more))


def test_a_batch_without_labels():
    """Its weights add up to 0, and so does its loss."""
    more = {"loss": MAP_LOSS, "labels": lambda images: few(maps(images), 9)}
    expected = once(segmenter, **more)
    assert all(0 < loss < 10 for loss in expected[1])
    assert run(3, lambda p: once(segmenter, p, **more)) == [expected] * 3
    assert once(segmenter, 1, 2, **more) == expected


@pytest.mark.parametrize("option", ["own augmentation", "mix-up", "erasing"])
def test_images_larger_than_memory(tmp_path, option):
    images, _ = digits(8)
    np.save(tmp_path / "images.npy", images[:IMAGES])
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    expected = once(net, **OPTIONS[option])
    same_everywhere(lambda processes=1, pieces=1: once(net, processes, pieces, mapped=mapped, **OPTIONS[option]))
    assert once(net, mapped=mapped, **OPTIONS[option]) == expected


def batches(seed, sizes=(150, 150, 33)):
    images, labels = digits(8)
    rng = np.random.default_rng(seed)
    while True:
        for size in sizes:
            chosen = rng.integers(0, len(images), size)
            yield images[chosen], labels[chosen]


def fed(processes=1, pieces=1, seed=1, **settings):
    images, labels = digits(8)
    trainer = Trainer(net(), backend=numba(), processes=processes, pieces=pieces, progress=False, flip=True, **settings)
    history = trainer.fit_batches(batches(seed), 2, steps=3, validation=(images[300:400], labels[300:400]))
    return trainer.model.weights_sha256(), history["loss"], history["validation_loss"]


def test_batches_from_a_generator():
    same_everywhere(fed)
    same_everywhere(lambda processes=1, pieces=1: fed(processes, pieces, mixup=0.3, augment=mean_and_noise))


def test_other_batches_are_noticed(tmp_path):
    with pytest.raises(ProcessError, match="process 2 was given other batches than process 0.*the same seed"):
        run(3, lambda p: fed(p, seed=int(p.rank == 2)))

    class Later:
        """Like the others, but in one process one pixel of the fourth batch."""

        def __init__(self, p):
            self.p = p

        def __len__(self):
            return 3

        def __iter__(self):
            self.epoch = getattr(self, "epoch", -1) + 1
            for number, (images, labels) in zip(range(3), batches(self.epoch)):
                images[0, 0, 0, 0] += self.p.rank == 1 and self.epoch == 1 and number == 1
                yield images, labels

    def work(p):
        trainer = Trainer(net(), backend=numba(), processes=p, progress=False, run=tmp_path / "run")
        trainer.fit_batches(Later(p), 3)

    with pytest.raises(ProcessError, match="process 1 was given other batches than process 0"):
        run(2, work)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_all_resume_or_none_does(tmp_path):
    """One that did not took the other's messages for its own, and died of a signal."""
    images, labels = digits(8)

    def work(processes):
        trainer = Trainer(net(), batch_size=32, processes=processes, run=tmp_path / "run", progress=False)
        trainer.fit(images, labels, 1, resume=processes.first)

    with pytest.raises(ProcessError, match="process 1 differs from process 0: resume is True there and False here"):
        run(2, work)


def test_a_loop_of_ones_own():
    def steps(processes=1, pieces=1, seed=1):
        trainer = Trainer(net(), backend=numba(), processes=processes, pieces=pieces, progress=False, shift=1)
        source = batches(seed)
        losses = [trainer.train_step(*next(source))["loss"] for _ in range(7)]
        return trainer.model.weights_sha256(), losses

    same_everywhere(steps)
    with pytest.raises(ProcessError, match="process 1 was given other batches"):
        run(2, lambda p: steps(p, seed=1 + p.rank))
