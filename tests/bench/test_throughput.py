"""What is timed, the checks before it, and the report; the batches are small, since speed is not tested."""

import json

import numpy as np
import pytest

from gpucnn.backends import get_backend
from gpucnn.backends.numpy.fast import NumpyFast
from gpucnn.errors import BackendError, ConfigurationError
from gpucnn.throughput import Case, bench, jobs, operations, profile
from gpucnn.throughput.agreement import Referee, one_step, tolerance
from gpucnn.throughput.chart import check_path, draw
from gpucnn.throughput.peak import Peak
from gpucnn.throughput.report import best_rows, disturbance
from gpucnn.throughput.timing import Slice, Timing

CASE = Case("lenet5", "training", 4)


class Broken(NumpyFast):
    """A backend with an error in one gradient."""

    def conv_weight_gradient(self, dy, x, window, groups, out):
        super().conv_weight_gradient(dy, x, window, groups, out)
        out *= 1.1


class Liar(NumpyFast):
    """A backend that calls itself exact and is not."""

    math = "exact"


@pytest.fixture(scope="module")
def numpy_fast():
    return get_backend("numpy", "fast")


@pytest.fixture(scope="module")
def report(numpy_fast):
    return bench([CASE, Case("lenet5", "inference", 4)], [numpy_fast], seconds=0.1, peer=False)


# ---- cases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [("lenet", "training", 1), ("lenet5", "train", 1), ("lenet5", "training", 0)])
def test_wrong_cases_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        Case(*wrong)


@pytest.mark.parametrize("seconds", [0, -1.0, "2", float("nan")])
def test_a_time_that_is_none_is_refused(numpy_fast, seconds):
    with pytest.raises(ConfigurationError, match="seconds is .*; give a number above 0"):
        bench([CASE], [numpy_fast], seconds=seconds)


def test_operations_of_lenet_by_hand():
    """28x28 with padding 2: maps of 28 and 10, 5x5 kernels; dense layers 400-120-84-10."""
    first, second, dense = 28 * 28 * 25 * 6, 10 * 10 * 25 * 6 * 16, 400 * 120 + 120 * 84 + 84 * 10
    assert Case("lenet5", "inference", 1).operations() == 2 * (first + second + dense)
    assert Case("lenet5", "training", 1).operations() == 2 * (2 * first + 3 * (second + dense))


def test_data_is_the_same_each_time_and_divides_into_batches():
    images, labels = CASE.data()
    assert len(images) % CASE.batch == 0 and len(images) == len(labels) >= 1024
    assert images.dtype == np.float32 and labels.dtype == np.int32
    assert np.array_equal(images, CASE.data()[0])


def test_training_steps_change_weights_and_go_through_the_batches(numpy_fast, monkeypatch):
    seen = []
    monkeypatch.setattr(jobs.Resident, "choose", lambda self, indices: seen.append(tuple(indices)))
    prepared = jobs.prepare(Case("lenet5", "training", 256), numpy_fast)
    for _ in range(4):
        prepared.contender.call()
    assert len(set(seen)) == 4 and seen[4] == seen[0]
    assert sorted(i for batch in seen[:4] for i in batch) == list(range(1024))


def test_inference_is_predict_on_one_batch_after_the_other(numpy_fast):
    case = Case("lenet5", "inference", 8)
    call = jobs.prepare(case, numpy_fast).contender.call
    images, _ = case.data()
    model = case.build().place(numpy_fast)
    assert np.array_equal(call(), model.predict(images[8:16]))  # the first batch was used up by preparing


# ---- the checks ----------------------------------------------------------------------------------------------------


def test_float64_is_its_own_reference_and_float32_is_close(numpy_fast):
    referee = Referee(CASE)
    assert referee.judge("float64", one_step(CASE, get_backend("numpy", "fast", dtype=np.float64)), False) == 0
    assert 0 < referee.judge("float32", one_step(CASE, numpy_fast), False) < tolerance(CASE) < 0.02


def test_a_wrong_gradient_is_found_and_named():
    with pytest.raises(BackendError, match=r"0\.weight|2\.weight"):
        Referee(CASE).judge("broken", one_step(CASE, Broken(threads=1, dtype=np.dtype(np.float32))), False)


def test_nothing_is_timed_after_a_wrong_result(monkeypatch):
    monkeypatch.setattr("gpucnn.throughput.interleave", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(BackendError, match="nothing was timed"):
        bench([CASE], [Broken(threads=1, dtype=np.dtype(np.float32))], seconds=0.1, peer=False)


def test_other_bits_in_exact_math_are_found(numpy_fast):
    state = one_step(CASE, numpy_fast)
    other = {name: value.copy() for name, value in state.items()}
    other["0.weight"].ravel()[0] = np.nextafter(other["0.weight"].ravel()[0], np.float32(9))
    referee = Referee(CASE)
    referee.judge("one", state, True)
    referee.judge("same", state, True)
    referee.judge("fast math may differ", other, False)
    with pytest.raises(BackendError, match="other.*one.*bits"):
        referee.judge("other", other, True)


def test_non_finite_results_are_found(numpy_fast):
    state = one_step(CASE, numpy_fast)
    state["2.bias"][0] = np.nan
    with pytest.raises(BackendError, match=r"2\.bias"):
        Referee(CASE).judge("broken", state, False)


@pytest.mark.slow
def test_the_numba_backend_agrees_with_the_specification_to_the_bit():
    case, referee = Case("lenet5", "training", 3), Referee(Case("lenet5", "training", 3))
    referee.judge("numba", one_step(case, get_backend("numba")), True)
    referee.judge("numpy", one_step(case, get_backend("numpy", "exact")), True)


# ---- the report ----------------------------------------------------------------------------------------------------


def test_rows_say_what_was_measured(report):
    assert [row["job"] for row in report["results"]] == ["training", "inference"]
    for row in report["results"]:
        assert (row["model"], row["batch"], row["backend"], row["math"]) == ("lenet5", 4, "numpy", "fast")
        assert row["images_per_second"] == pytest.approx(4000 / row["milliseconds"])
        low, high = row["quartiles"]
        assert 0 < low <= row["images_per_second"] <= high
        assert row["spread"] >= 0 and row["transfer_seconds"] >= 0 and row["first_step_seconds"] > 0
        assert 0 < row["peak_fraction"] < 1
        assert row["device_milliseconds"] is None
        assert row["slices"] >= row["quiet_slices"] >= 0 and row["samples"] >= row["slices"]
        assert "variant" not in row
    assert report["ratios"] == []
    assert report["machine"]["cores"] >= 1 and "numpy" in report["machine"]["versions"]
    assert all(peak > 0.1 for peak in report["peak_gflops"].values())
    json.dumps(report)


def test_fraction_of_the_peak():
    peak = Peak(1)
    peak._operations = 1000
    quiet = Timing([Slice(i, [2.0], 0.0) for i in range(10)])
    burst = Timing([Slice(i, [1.0], 0.0) for i in range(10)])
    assert peak.rate([burst]) == 1000
    assert peak.fraction(500, quiet, burst) == pytest.approx(0.25)
    # A disturbed burst must not make others look good: the best one counts then.
    disturbed = Timing([Slice(i, [9.0 if i else 1.0], 0.9) for i in range(10)])
    assert peak.fraction(500, quiet, disturbed) == pytest.approx(0.25)


def test_bursts_do_the_operations_that_they_claim():
    """Each accumulator t of 24 starts at (t + 1) / 2 and tends to 2 under acc * 0.5 + 1; the sum is folded with fma."""
    from gpucnn.kernels.numba.peak import fma_burst_of

    from gpucnn.backends.numba.base import Launch
    from gpucnn.backends.numba.peak import fma_peak

    count, out = 6, np.full((1, 16), 0.5, np.float32)
    Launch([(fma_burst_of(count), (1, 3, out))], 1)()
    chains = np.arange(1, count + 1, dtype=np.float32) / 2
    for _ in range(3):
        chains = chains * np.float32(0.5) + np.float32(1)
    expected = chains[0]
    for chain in chains[1:]:
        expected = expected * np.float32(0.5) + chain
    assert np.array_equal(out, np.full((1, 16), expected))
    assert fma_peak(1, seconds=0.02) > 1e9


def test_chart_is_written_and_wrong_files_are_refused_before(report, tmp_path):
    draw(report, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    for wrong in (tmp_path / "chart.txt", tmp_path / "missing" / "chart.png"):
        with pytest.raises(ConfigurationError, match="chart"):
            check_path(wrong)


def test_only_pytorchs_best_variant_is_shown(report):
    row = report["results"][0]
    peers = [{**row, "backend": "pytorch", "variant": v, "images_per_second": r} for v, r in (("a", 1.0), ("b", 2.0))]
    assert [r.get("variant") for r in best_rows({"results": [row, *peers]})] == [None, "b"]


def test_a_disturbed_measurement_says_so():
    row = {"slices": 10, "quiet_slices": 9, "figures_from": "quiet slices"}
    noisy = {"slices": 10, "quiet_slices": 2, "figures_from": "all slices"}
    assert disturbance([row, row]).startswith("quiet: 18 of 20 slices")
    assert disturbance([row, noisy]).startswith("NOT RELIABLE: other processes used the processors during 9 of 20")


def test_without_pytorch_a_note_says_so(numpy_fast, monkeypatch):
    monkeypatch.setattr("gpucnn.throughput.pytorch.installed", lambda: False)
    found = bench([Case("lenet5", "inference", 1)], [numpy_fast], seconds=0.05)
    assert all(row["peer"] != "pytorch" for row in found["ratios"])
    notes = [note for note in found["notes"] if "not quiet" not in note]  # other tests run beside this one
    assert notes == ["PyTorch is not installed: no ratios to it"]


# ---- one operation, and the operations of a step -------------------------------------------------------------------


def test_convolutions_count_their_work():
    convolution = operations.Convolution(8, 3, 5)
    assert convolution.operations == 2 * 8 * 8 * 9 * 3 * 5
    # 6 of 8 rows see all 3 taps, the two at the edges 2: 22 along each axis.
    assert convolution.inside == 2 * 22 * 22 * 3 * 5


def test_operations_are_checked_and_timed(numpy_fast):
    report = operations.measure([operations.Convolution(8, 3, 5)], 2, numpy_fast, 0.05, peer=False)
    assert [row["pass"] for row in report["results"]] == list(operations.PASSES)
    assert 0 < report["largest_error"] < 1
    for row in report["results"]:
        assert 0 < row["peak_fraction_inside"] < row["peak_fraction"]
        assert row["gflops"] == pytest.approx(2 * 2 * 8 * 8 * 9 * 15 / row["milliseconds"] / 1e6)


def test_wrong_operations_are_not_timed():
    broken = Broken(threads=1, dtype=np.dtype(np.float32))
    with pytest.raises(BackendError, match="wrongly"):
        operations.measure([operations.Convolution(8, 3, 5)], 2, broken, 0.05, peer=False)


def test_profile_lists_the_operations_of_a_step(numpy_fast):
    backend = NumpyFast(threads=1, dtype=np.dtype(np.float32))
    rows = profile.profile(Case("lenet5", "training", 2), backend, seconds=0.01, peak=1e12, bandwidth=1e11)
    names = [row["operation"] for row in rows]
    assert names[0] == "load_batch" and names[-1] == "optimize"
    assert names.count("conv_weight_gradient") == 2 and names.count("dense_gradients") == 3
    assert names.count("conv_input_gradient") == 1  # images need no gradient
    work = sum(row["gflops"] * row["milliseconds"] * 1e6 for row in rows)
    assert work == pytest.approx(2 * Case("lenet5", "training", 2).operations())
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert all(row["of_floor"] == pytest.approx(row["floor_milliseconds"] / row["milliseconds"]) for row in rows)
    assert not vars(backend).keys() & {"conv", "dense", "sgd"}  # nothing is left on the backend
