"""What holds for all that gpucnn.layers offers, a new layer too: right gradients, native programs in `predict`."""

import copy

import pytest

from gpucnn import check_gradients
from gpucnn.backends import get_backend
from gpucnn.layers import Concat, Flatten, Layer
from tests.inference.test_plans import expected, images, is_planned, same
from tests.test_arguments import build, layer_calls

LAYERS = {
    name: Concat(Flatten()) if kind is Concat else kind(**arguments)
    for name, kind, arguments in layer_calls()
    if issubclass(kind, Layer) and kind.__call__ is not Layer.__call__
}


@pytest.mark.parametrize("name", LAYERS)
def test_its_gradients_are_right(name):
    shape = build(copy.deepcopy(LAYERS[name])).image_shape
    report = check_gradients(copy.deepcopy(LAYERS[name]), shape=shape)
    assert report.passed, str(report)


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_planned(name):
    model = build(copy.deepcopy(LAYERS[name])).initialize(0)
    x = images(model, 17)
    reference = expected(model, x)
    model.place(get_backend("numba"))
    assert same(model.predict(x), reference)
    assert is_planned(model), "an operation is missing in gpucnn/inference/trace.py"
