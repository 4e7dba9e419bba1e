"""Callbacks that cannot work are refused where they are written; what was measured stays."""

import functools

import pytest

from gpucnn.errors import ConfigurationError
from gpucnn.training import Callback
from tests.training import small

X, Y = small.data()


def test_a_method_that_nothing_calls_is_refused():
    with pytest.raises(
        ConfigurationError, match="Keras has a method on_batch_end, which nothing calls; use one of on_"
    ):
        type("Keras", (Callback,), {"on_batch_end": lambda self, batch, logs: None})


async def later(self, trainer, record):
    raise AssertionError


def bit_by_bit(self, trainer, record):
    yield


@pytest.mark.parametrize("method", [later, bit_by_bit])
def test_a_method_whose_call_runs_nothing_is_refused(method):
    with pytest.raises(ConfigurationError, match="Late's on_epoch_end is a generator or async, .*; write a plain"):
        type("Late", (Callback,), {"on_epoch_end": method})


@pytest.mark.parametrize("method", [lambda self, trainer: None, lambda self, trainer, record, more: None])
def test_other_arguments_are_refused_before_training(method):
    with pytest.raises(
        ConfigurationError, match=r"has on_epoch_end\(.*write def on_epoch_end\(self, trainer, record\)"
    ):
        type("Wrong", (Callback,), {"on_epoch_end": method})


def told(method):
    """A decorator that gives one argument more."""

    @functools.wraps(method)
    def with_one_more(self, trainer, record):
        return method(self, trainer, record, "more")

    return with_one_more


@pytest.mark.parametrize(
    "method",
    [
        told(lambda self, trainer, record, more: None),
        lambda self, trainer, epoch_record: None,
        lambda self, *arguments: None,
        lambda self, trainer, record, more=None: None,
        staticmethod(lambda trainer, record: None),
        classmethod(lambda cls, trainer, record: None),
    ],
)
def test_any_way_to_take_the_arguments_works(method):
    callback = type("Fine", (Callback,), {"on_epoch_end": method})()
    assert len(small.trainer(callbacks=[callback]).fit(X, Y, 1)) == 1


@pytest.mark.parametrize("change", [lambda record: record.pop("loss"), lambda record: record.update(loss="low")])
def test_what_was_measured_stays(tmp_path, change):
    class Changes(Callback):
        def on_epoch_end(self, trainer, record):
            change(record)

    trainer = small.trainer(tmp_path / "run", callbacks=[Changes()])
    with pytest.raises(ConfigurationError, match=r"a callback made .* of loss in the epoch's record, which is \d"):
        trainer.fit(X, Y, 2)
    again = small.trainer(tmp_path / "run").fit(X, Y, 2, resume=True)
    assert len(again) == 2 and again["loss"] == small.trainer().fit(X, Y, 2)["loss"]
