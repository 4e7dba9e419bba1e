"""The summary's numbers, computed by hand."""

import math

from gpucnn.layers import BatchNorm, Conv2d, Dense, Flatten, GlobalAvgPool2d, Layer, MaxPool2d, Residual, Sequential
from gpucnn.models import MODELS, Model, lenet5
from gpucnn.summary import summary


def test_lenet5():
    table = summary(lenet5())
    rows = {row.name: row for row in table.rows}
    assert [row.kind for row in table.rows] == [
        "Conv2d",
        "MaxPool2d",
        "Conv2d",
        "MaxPool2d",
        "Flatten",
        "Dense",
        "Dense",
        "Dense",
    ]
    assert [row.output for row in table.rows] == [
        (6, 28, 28),
        (6, 14, 14),
        (16, 10, 10),
        (16, 5, 5),
        (400,),
        (120,),
        (84,),
        (10,),
    ]
    assert [row.parameters for row in table.rows] == [156, 0, 2416, 0, 0, 48120, 10164, 850]
    assert rows["0"].multiply_adds == 28 * 28 * 6 * 25
    assert rows["2"].multiply_adds == 10 * 10 * 16 * 6 * 25
    # 5; 5 + 1 pixel; + 4 taps 2 apart; + 1 tap 2 apart
    assert [row.field for row in table.rows[:4]] == [(5, 5), (6, 6), (14, 14), (16, 16)]
    assert rows["5"].field == (32, 32)
    assert rows["0"].dense_weights == 32 * 32 * 6 * 28 * 28
    assert table.total.parameters == 61706
    assert table.total.multiply_adds == 117600 + 240000 + 48000 + 10080 + 840


def test_a_3x3_image_to_a_3x3_map():
    (row,) = summary(Model(Conv2d(1, 3, padding=1, bias=False), (1, 3, 3))).rows
    assert (row.parameters, row.dense_weights) == (9, 81)  # FEATURES


def test_1x1_filters():
    (row,) = summary(Model(Conv2d(32, 1), (64, 56, 56))).rows
    assert row.multiply_adds == 64 * math.prod(row.output)  # FEATURES: 64 per value
    assert row.field == (1, 1)


def test_residual_paths_and_totals():
    body = Sequential(Conv2d(4, 3, stride=2, padding=1, bias=False), BatchNorm(), Conv2d(4, 3, padding=1, bias=False))
    table = summary(
        Model(Sequential(Residual(body, Conv2d(4, 1, stride=2)), MaxPool2d(2), GlobalAvgPool2d()), (2, 12, 12))
    )
    assert [(row.name, row.kind, row.parameters, row.field) for row in table.rows] == [
        ("0.body.0", "Conv2d", 72, (3, 3)),
        ("0.body.1", "BatchNorm", 8, (3, 3)),
        ("0.body.2", "Conv2d", 144, (7, 7)),
        ("0.shortcut", "Conv2d", 12, (1, 1)),
        ("0", "Residual", 0, (7, 7)),
        ("1", "MaxPool2d", 0, (9, 9)),
        ("2", "GlobalAvgPool2d", 0, (12, 12)),
    ]
    assert table.total.parameters == 236


def test_totals_count_everything_once():
    for name in MODELS:
        model = MODELS[name]()
        assert summary(model).total.parameters == model.parameter_count


def test_a_user_defined_layer_counts_with_all_inside():
    class Wrapped(Layer):
        def __init__(self):
            self.inner = Sequential(Dense(5))
            self.twice = self.again = Dense(5)

        def build(self, shape):
            self.twice.connect(self.inner.connect(shape))
            return self.again.connect((5,))

        def __call__(self, x):
            raise NotImplementedError

    model = Model(Sequential(Flatten(), Wrapped()), (1, 4, 4))
    table = summary(model)
    assert table.rows[1].parameters == 85 + 30 == table.total.parameters
    assert table.rows[1].multiply_adds == 80 + 2 * 25 == table.total.multiply_adds


def test_the_table_prints_every_layer():
    text = str(summary(lenet5()))
    lines = text.splitlines()
    assert "61,706" in lines[-1] and "416,520" in lines[-1]
    assert "images of 1x32x32" in lines[0]
    assert max(map(len, lines)) <= 120
    assert sum("Conv2d" in line for line in lines) == 2
