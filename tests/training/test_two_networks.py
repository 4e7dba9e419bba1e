"""Two networks that learn from each other (docs/recipes.md), joined by hand: the same weights on every backend."""

import numpy as np

from gpucnn import layers as L
from gpucnn.backends import get_backend
from gpucnn.losses import BinaryCrossEntropy
from gpucnn.models import Model
from gpucnn.optimizers import Adam


class Player:
    def __init__(self, backend, shape, *layers, seed: int):
        self.model = Model(L.Sequential(*layers), shape, head="regressor").initialize(seed).place(backend)
        self.optimizer, self.steps = Adam(1e-2), 0
        self.optimizer.place(backend, self.model.values.size)
        self.model.mode.training = True

    def learn(self) -> None:
        self.steps += 1
        self.model.mode.step = self.steps
        self.optimizer.set_rates(1.0, self.steps)
        self.optimizer.step(self.model.values, self.model.grads)


def drawn(backend) -> bytes:
    """What the first has learned to draw after some steps, and the second's weights."""
    forger = Player(backend, (5,), L.Dense(19), L.BatchNorm(activation="relu"), L.Dense(36, activation="tanh"), seed=1)
    judge = Player(backend, (36,), L.Dense(20, activation="leaky_relu"), L.Dropout(0.2), L.Dense(1), seed=2)
    rate, rng = BinaryCrossEntropy(), np.random.default_rng(0)
    yes, no = (backend.pack(np.full((21, 1), target, np.float32)) for target in (1, 0))
    for _ in range(6):
        real = backend.pack(rng.standard_normal((21, 36), np.float32))
        fake, forger_back = forger.model(backend.pack(rng.standard_normal((21, 5), np.float32)))
        for images, truth in ((real, yes), (fake, no)):
            scores, judge_back = judge.model(images)
            judge_back(rate(scores, truth)[1])
            judge.learn()
        scores, judge_back = judge.model(fake)
        forger_back(judge_back(rate(scores, yes)[1]))
        forger.learn()
    forger.model.mode.training = False
    return forger.model.predict(np.eye(5, dtype=np.float32)).tobytes() + backend.host(judge.model.values).tobytes()


def test_two_networks_that_learn_from_each_other_have_the_same_bits_on_every_backend():
    readable = drawn(get_backend("numpy"))
    for threads in (1, 2):
        assert drawn(get_backend("numba", threads=threads)) == readable
