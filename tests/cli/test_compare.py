"""`gpucnn compare` as docs/comparing.md tells it."""

import statistics

import pytest


@pytest.mark.slow
def test_the_table_and_the_test(cli, tmp_path):
    options = ("--model", "mlp", "--hidden", 8, "--epochs", 2, "--validation", 0.1)
    found = {}
    for seed in (0, 1):
        for lr in (0.002, 0.01):
            run = tmp_path / f"{lr}-{seed}"
            found[lr, seed] = cli.json("train", *options, "--seed", seed, "--lr", lr, "--run", run)
    runs = [tmp_path / f"{lr}-{seed}" for lr, seed in found]
    answer = cli.json("compare", *runs, "--test")
    means = {lr: statistics.fmean(found[lr, seed]["validation_loss"] for seed in (0, 1)) for lr in (0.002, 0.01)}
    order = sorted(means, key=means.get)
    assert [group["settings"] for group in answer["groups"]] == [{"optimizer.lr": lr} for lr in order]
    assert [group["measures"]["loss"]["mean"] for group in answer["groups"]] == pytest.approx(
        [means[lr] for lr in order]
    )
    assert answer["test"] == {str(seed): found[order[0], seed]["test_accuracy"] for seed in (0, 1)}
    shown = cli("compare", *runs)
    assert f"optimizer.lr {order[0]}" in shown.stdout and "±" in shown.stdout and "test images" not in shown.stderr


def test_refusals(cli, tmp_path):
    run = tmp_path / "run"
    cli.json("train", "--model", "mlp", "--hidden", 8, "--epochs", 1, "--run", run)
    for arguments, words in [
        ((), "RUN..."),
        ((run,), "has no loss in validation"),
        ((tmp_path,), "holds no checkpoint"),
        ((run, "--monitor", "f2"), "has no f2"),
    ]:
        refused = cli("compare", *arguments)
        assert refused.exit_code == 2 and words in refused.stderr


def test_settings_that_only_another_kind_has_are_left_out(cli, tmp_path):
    small = ("train", "--model", "mlp", "--hidden", 4, "--epochs", 1, "--validation", 0.1)
    cli.json(*small, "--run", tmp_path / "a")
    cli.json(*small, "--run", tmp_path / "b", "--optimizer", "sgd")
    shown = cli("compare", tmp_path / "a", tmp_path / "b").stdout
    assert "optimizer.momentum 0.9" in shown and "optimizer.beta1 0.9" in shown and "None" not in shown
