"""The panel that compares bits, and the order of summation that it breaks on purpose."""

import numpy as np

from gpucnn.backends import get_backend
from gpucnn.explore.bits import LONG, OneByOne, train
from gpucnn.geometry import window


def test_every_backend_has_the_same_bits(page):
    answer = page("bits", emulate=False)
    assert answer["columns"][0]["name"] == "numpy"
    assert {"numpy", "numba"} <= {column["name"] for column in answer["columns"]}
    assert len(answer["names"]) == 210
    for column in answer["columns"]:
        assert column["differing"] == []
        assert np.array_equal(column["bits"], answer["columns"][0]["bits"])
        assert np.array_equal(column["values"].view(np.uint32), column["bits"])
        assert column["sha256"] == answer["columns"][0]["sha256"]
    for one in answer["missing"]:
        assert one["reason"]


def test_one_by_one_adds_the_images_in_a_row():
    """Beside plain loops in float32, and not the specification's bits."""
    random, backend = np.random.default_rng(1), OneByOne()
    x = random.normal(size=(40, 1, 3, 3)).astype(np.float32)
    dy = random.normal(size=(40, 1, 1, 1)).astype(np.float32)
    found, specified = (np.zeros((1, 1, 3, 3), np.float32) for _ in range(2))
    fit = window((3, 3), 3)
    backend.conv_weight_gradient(backend.pack(dy), backend.pack(x), fit, 1, found)
    specification = get_backend("numpy", "exact")
    specification.conv_weight_gradient(specification.pack(dy), specification.pack(x), fit, 1, specified)
    expected = np.zeros((3, 3), np.float32)
    for gradient, image in zip(dy[:, 0, 0, 0], x[:, 0]):
        expected = expected + gradient * image
    assert np.array_equal(found[0, 0], expected)
    assert not np.array_equal(found, specified)
    assert np.abs(found - specified).max() < 1e-5


def test_the_first_bit_that_differs(page):
    answer = page("break")
    right, _ = train(get_backend("numpy", "exact"), LONG)
    wrong, _ = train(OneByOne(), LONG)
    step, weight = next(
        (step, weight)
        for step in range(LONG)
        for weight in range(right.shape[1])
        if right[step, weight].tobytes() != wrong[step, weight].tobytes()
    )
    first = answer["first"]
    assert (first["step"], first["weight"]) == (step + 1, weight)
    assert [float(value) for value in first["values"]] == [
        float(np.format_float_positional(w[step, weight])) for w in (right, wrong)
    ]
    assert [int(code, 2) for code in first["bits"]] == [int(code, 16) for code in first["hex"]]
    assert first["differing"] == [i for i, (a, b) in enumerate(zip(*first["bits"])) if a != b]
    assert len(answer["counts"]) == len(answer["largest"]) == LONG
    assert answer["counts"][step] >= 1 and not any(answer["counts"][:step])
    assert answer["counts"][-1] == sum(a.tobytes() != b.tobytes() for a, b in zip(right[-1], wrong[-1]))
    assert answer["counts"][-1] > answer["counts"][step]
    assert answer["sha256"][0] != answer["sha256"][1]
    assert answer["largest"][-1] == float(np.abs(right[-1].astype(float) - wrong[-1].astype(float)).max())
