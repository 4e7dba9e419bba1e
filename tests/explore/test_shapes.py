"""The panel that builds networks: its table is the summary, its Python makes the same, the too large is refused."""

import subprocess
import sys

import pytest

from gpucnn.models import lenet5
from gpucnn.summary import summary
from tests.processes import environment

OFFERED = {
    "Conv2d": {"out_channels": 4, "padding": 1, "padding_mode": "reflect", "activation": "gelu"},
    "ConvTranspose2d": {"out_channels": 4, "stride": 2},
    "MaxPool2d": {"size": 2, "stride": 1},
    "AvgPool2d": {"size": 3, "padding": 1},
    "BatchNorm": {"activation": "relu"},
    "Upsample": {"scale": 3},
    "Dense": {"units": 7},
}


def built(page, layers, shape=(2, 12, 12)):
    return page("build", channels=shape[0], height=shape[1], width=shape[2], layers=layers)


def test_lenet_is_lenet(page):
    preset = page("kinds")["presets"]["lenet5"]
    answer = built(page, preset["layers"], preset["shape"])
    expected = summary(lenet5((1, 32, 32), 10))
    assert [tuple(row["output"]) for row in answer["rows"]] == [row.output for row in expected.rows]
    assert answer["total"]["parameters"] == expected.total.parameters == 61_706
    assert answer["total"]["multiply_adds"] == expected.total.multiply_adds
    assert [row["field"] for row in answer["rows"]] == [list(row.field) for row in expected.rows]
    assert [row["dense"] for row in answer["rows"]] == [row.dense_weights for row in expected.rows]


def test_every_kind_can_be_built_and_its_python_makes_the_same(page):
    """One program for all, since each import takes a while."""
    offered = page("kinds")
    layers = []
    for kind in offered["kinds"]:
        if kind in ("Flatten", "Dense", "GlobalAvgPool2d"):
            continue
        layers.append({"kind": kind, **OFFERED.get(kind, {})})
    layers += [{"kind": "Flatten"}, {"kind": "Dense", "units": 7}]
    programs, expected = [], []
    for network, shape in [(layers, (2, 12, 12))] + [(p["layers"], p["shape"]) for p in offered["presets"].values()]:
        answer = built(page, network, shape)
        assert "refused" not in answer
        assert len(answer["rows"]) == len(network)
        programs.append(answer["python"])
        expected.append(answer["total"]["parameters"])
    code = "\n".join(f"{program}\nprint('parameters', model.parameter_count)" for program in programs)
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert [int(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("parameters")] == expected


def test_where_a_layer_does_not_fit_the_others_stay(page):
    layers = [{"kind": "Conv2d"}, {"kind": "MaxPool2d"}, {"kind": "Conv2d", "kernel_size": 9}, {"kind": "Flatten"}]
    answer = built(page, layers)
    assert answer["at"] == 2
    assert answer["refused"].startswith("layer 2 (Conv2d): a kernel of 9 is larger than the padded input of 5")
    assert [row["kind"] for row in answer["rows"]] == ["Conv2d", "MaxPool2d"]
    assert "groups" in built(page, [{"kind": "Conv2d", "groups": 3}])["refused"]


def test_many_parameters_on_a_small_image_are_refused(page):
    """10,000 inputs by 10,000 units: each layer's output is small, its weights are not."""
    answer = built(page, [{"kind": "Flatten"}, {"kind": "Dense", "units": 10_000}], (1, 100, 100))
    assert answer["refused"] == "that makes 100,010,000 parameters; this page builds up to 50,000,000"
    assert answer["at"] == 1


@pytest.mark.parametrize(
    "layers",
    [
        [{"kind": "Flatten"}, {"kind": "Dense", "units": 100_000}],
        [{"kind": "Conv2d", "out_channels": 1024, "kernel_size": 64, "padding": 64}],
        [{"kind": "Upsample", "scale": 8}] * 8,
        [{"kind": "ConvTranspose2d", "out_channels": 1024, "kernel_size": 64, "stride": 64}] * 4,
    ],
)
def test_what_would_not_fit_into_memory_is_refused_before_it_is_made(page, layers):
    resource = pytest.importorskip("resource", reason="memory as POSIX counts it")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = built(page, layers, (1024, 1024, 1024))
    assert "refused" in answer and answer["at"] <= 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB
