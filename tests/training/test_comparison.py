"""Groups of runs, their means over seeds and the differences between them, beside NumPy's; unfair comparisons."""

import json
import shutil

import numpy as np
import pytest

from gpucnn.errors import CheckpointError, ConfigurationError
from gpucnn.losses import SoftmaxCrossEntropy
from gpucnn.metrics import Metric
from gpucnn.optimizers import SGD
from gpucnn.training import compare, load_run
from tests.training import small

X, Y = small.data()


def train(folder, seed: int, lr: float, epochs: int = 2, **settings):
    settings = {"validation": 0.3, **settings}
    small.trainer(folder, optimizer=SGD(lr), seed=seed).fit(X, Y, epochs, **settings)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[tuple[float, int], object]:
    place = tmp_path_factory.mktemp("runs")
    return {(lr, seed): train(place / f"{lr}-{seed}", seed, lr) for lr in (0.05, 0.2) for seed in (0, 1, 2, 3)}


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_means_deviations_and_paired_differences(runs, monitor):
    found = compare(list(runs.values()), monitor)
    better = min if monitor == "loss" else max
    expected = {}
    for lr in (0.05, 0.2):
        histories = [load_run(runs[lr, seed], small.model()).history.epochs for seed in range(4)]
        best = [better(epochs, key=lambda epoch: epoch[f"validation_{monitor}"]) for epochs in histories]
        expected[lr] = np.array([epoch[f"validation_{monitor}"] for epoch in best])
    order = sorted(expected, key=lambda lr: expected[lr].mean(), reverse=monitor == "accuracy")
    assert [group.settings for group in found] == [{"optimizer.lr": lr} for lr in order]
    for group, lr in zip(found, order):
        assert list(group.measures[monitor].values()) == expected[lr].tolist()
        assert group.mean(monitor) == pytest.approx(expected[lr].mean())
        assert group.deviation(monitor) == pytest.approx(expected[lr].std(ddof=1))
        assert group.runs == {seed: runs[lr, seed] for seed in range(4)}
    pairs = expected[order[1]] - expected[order[0]]
    difference = found[1].difference
    assert found[0].difference is None and difference.seeds == 4
    assert difference.mean == pytest.approx(pairs.mean())
    assert difference.error == pytest.approx(pairs.std(ddof=1) / 2)


def test_one_seed_has_no_deviation_and_other_seeds_no_difference(runs):
    first, second = compare([runs[0.05, 0], runs[0.2, 1]])
    assert first.deviation("loss") is None and second.difference is None
    first, second = compare([runs[0.05, 0], runs[0.2, 0]])
    assert second.difference.error is None and second.difference.seeds == 1


def test_runs_of_the_same_settings_are_one_group(runs):
    (group,) = compare([runs[0.05, seed] for seed in range(4)])
    assert group.settings == {}


def test_balanced_classes_are_one_setting(runs, tmp_path):
    """Whatever numbers the images of each seed gave."""
    copy = tmp_path / "copy"
    shutil.copytree(runs[0.05, 1], copy)
    shutil.copytree(runs[0.05, 0], tmp_path / "first")
    for weights, folder in (([1.0, 0.9], copy), ([0.9, 1.0], tmp_path / "first")):
        config = json.loads((folder / "config.json").read_text())
        config["loss"]["class_weights"] = weights
        for balanced in ({}, {"balanced": True}):
            (folder / "config.json").write_text(json.dumps({**config, **balanced}))
    (group,) = compare([tmp_path / "first", copy])
    assert group.runs.keys() == {0, 1}


def test_processes_are_no_setting_and_the_weights_to_start_with_are_one(runs, tmp_path):
    config = json.loads((runs[0.05, 1] / "config.json").read_text())
    copy = tmp_path / "copy"
    shutil.copytree(runs[0.05, 1], copy)
    (copy / "config.json").write_text(json.dumps({**config, "processes": 2}))
    (group,) = compare([runs[0.05, 0], copy])
    assert group.settings == {}
    (copy / "config.json").write_text(json.dumps({**config, "train": {"start": "/runs/old"}}))
    assert [group.settings["start"] for group in compare([runs[0.05, 1], copy])] == [None, "/runs/old"]


def test_a_run_with_patience_is_finished_once_it_is_over(runs, tmp_path):
    """Or has all its epochs: one that was killed before is not."""
    copy = tmp_path / "copy"
    shutil.copytree(runs[0.05, 0], copy)
    config = json.loads((copy / "config.json").read_text()) | {"epochs": 9}
    best = load_run(copy, small.model()).history.best_epoch()
    for patience in (2 - best, 3):
        (copy / "config.json").write_text(json.dumps({**config, "patience": patience}))
        if patience == 3:
            with pytest.raises(ConfigurationError, match="2 of 9 epochs; resume it first"):
                compare([copy])
        else:
            assert len(compare([copy])) == 1


def test_a_metric_may_be_a_whole_number(tmp_path):
    class Hits(Metric):
        name = "hits"

        def reset(self):
            self._hits = 0

        def update(self, predictions, targets):
            self._hits += int((predictions.argmax(1) == targets).sum())

        def result(self):
            return self._hits

    it = small.trainer(tmp_path, metrics=[Hits()])
    it.fit(X, Y, 2, validation=0.3, monitor="hits")
    (group,) = compare([tmp_path], "hits")
    assert group.measures["hits"] == {3: max(it.history["validation_hits"])}


def test_unfair_comparisons_are_refused(runs, tmp_path):
    fair = runs[0.05, 0]
    with pytest.raises(ConfigurationError, match="no runs were given"):
        compare([])
    with pytest.raises(ConfigurationError, match="the same settings and the same seed"):
        compare([fair, fair])
    with pytest.raises(ConfigurationError, match="validated in another way"):
        compare([fair, train(tmp_path / "half", 1, 0.05, validation=0.5)])
    with pytest.raises(ConfigurationError, match="has no loss in validation"):
        compare([fair, train(tmp_path / "none", 1, 0.05, validation=None)])
    with pytest.raises(ConfigurationError, match="has no f1 in validation"):
        compare([fair], "f1")
    small.trainer(tmp_path / "other", seed=1).fit(X + 1, Y, 2, validation=0.3)
    with pytest.raises(ConfigurationError, match="trained on other images"):
        compare([fair, tmp_path / "other"])
    smoothed = small.trainer(tmp_path / "smoothed", seed=1, loss=SoftmaxCrossEntropy(label_smoothing=0.1))
    smoothed.fit(X, Y, 2, validation=0.3, monitor="loss")
    with pytest.raises(ConfigurationError, match="smoothed measured another loss than .*--monitor accuracy"):
        compare([fair, tmp_path / "smoothed"])
    assert len(compare([fair, tmp_path / "smoothed"], "accuracy")) == 2
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    (tmp_path / "half" / "config.json").write_text(json.dumps({**config, "epochs": 9}))
    with pytest.raises(ConfigurationError, match="2 of 9 epochs"):
        compare([tmp_path / "half"])
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        compare([tmp_path])
    for wrong in (None, "ab", 3):
        with pytest.raises((ConfigurationError, CheckpointError)):
            compare(wrong)
