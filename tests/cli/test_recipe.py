"""`gpucnn train` without any option, other than the seed, learns the digits."""

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_at_most_five_of_359_wrong(cli, tmp_path, seed):
    values = cli.json("train", "--seed", seed, "--run", tmp_path / "run")
    assert values["test_accuracy"] >= 0.985
