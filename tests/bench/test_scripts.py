"""What the scripts of bench/ do without a GPU or a quiet machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import cpu
import dependent_launch
import gpu
import record
import tables
from gpucnn.throughput import Case

MACHINE = {
    "date": "2026-01-02T03:04:05+00:00",
    "processor": "Some CPU",
    "python": "3.11.1",
    "versions": {"numba": "0.1"},
}


def row(backend: str, rate: float, **more) -> dict:
    about = {"model": "lenet5", "job": "training", "batch": 64, "math": "exact", "threads": 2, "peak_fraction": 0.25}
    return {**about, "backend": backend, "images_per_second": rate, "figures_from": "quiet slices", **more}


@pytest.fixture
def content() -> dict:
    peers = [row("pytorch", r, math="fast", variant=v) for r, v in ((900.0, "slow"), (1000.0, "quick"))]
    ratio = {**row("numba", 4500.0), "variant": "quick", "ratio": 4.5}
    operation = {
        "operation": "8x8, 3 to 5",
        "pass": "forward",
        "batch": 2,
        "threads": 2,
        "milliseconds": 1.5,
        "gflops": 300.0,
        "peak_fraction": 0.8,
        "peak_fraction_inside": 0.7,
        "pytorch_milliseconds": {"contiguous": 3.0, "channels_last": 2.0},
    }
    return {
        "networks": {"machine": MACHINE, "results": [row("numba", 4500.0), *peers], "ratios": [ratio]},
        "operations": {"machine": MACHINE, "results": [operation]},
    }


def test_tables(content):
    text = tables.tables(content)
    assert "| lenet5 | training | 64 | numba exact | 4,500 | 25% | 1,000 (quick) | **4.50** |" in text
    assert "| 8x8, 3 to 5 | forward | 1.50 | 300 | 80% | 70% | 2.00 |" in text
    assert "Measured on 2026-01-02: Some CPU, 2 threads; Python 3.11.1, Numba 0.1, PyTorch none." in text
    assert "disturbed" not in text
    content["networks"]["results"][0]["figures_from"] = "all slices"
    assert "disturbed 1 of 3 figures" in tables.tables(content)


def test_tables_of_inference():
    rows = [
        {
            "network": "1D",
            "batch": batch,
            "threads": 2,
            "images_per_second": {"gpucnn": 3000.0 * batch, "ONNX Runtime": 2000.0 * batch, "PyTorch": 1000.0 * batch},
            "ratios": {"PyTorch": 3.0, "ONNX Runtime": 1.5},
            "ratio": 1.5,
        }
        for batch in (1, 8)
    ]
    rows[0]["latency_microseconds"] = {"gpucnn": [20.4, 31.0], "ONNX Runtime": [30.0, 44.6], "PyTorch": [1.0, 1.0]}
    content = {"inference": {"machine": MACHINE, "results": rows}}
    text = tables.tables(content)
    assert "| 1D | 1 | 3,000 | 2,000 (ONNX Runtime) | **1.50** | 20, 31 | 30, 45 |" in text
    assert "| 1D | 8 | 24,000 | 16,000 (ONNX Runtime) | **1.50** |  |  |" in text
    assert "| batch 1 | 1.50 |\n| batch 8 | 1.50 |" in tables.tables(content, short=True)


def test_tables_go_between_the_marks():
    readme = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    assert tables.between("README.md", readme, "new") == f"before\n{tables.BEGIN}\nnew\n{tables.END}\nafter\n"
    for wrong in ("no marks", tables.BEGIN, f"{tables.END} {tables.BEGIN}"):
        with pytest.raises(SystemExit, match="README"):
            tables.between("README.md", wrong, "new")


def test_newest_results(tmp_path):
    for name in ("cpu-2026-01-09.json", "cpu-2026-01-10.json", "inference-2025-12-31.json", "gpu-2026-01-10.json"):
        (tmp_path / name).touch()
    assert [path.name for path in tables.newest(tmp_path)] == ["cpu-2026-01-10.json", "inference-2025-12-31.json"]


def test_records_of_a_day_share_a_file(tmp_path):
    first = record.record("networks", {"results": [1]}, folder=tmp_path)
    assert record.record("operations", {"results": [2]}, folder=tmp_path) == first
    content = json.loads(first.read_text())
    assert content["networks"]["results"] == [1] and content["operations"]["results"] == [2]
    assert content["operations"]["machine"]["versions"]["numpy"]
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_processors_have_files_of_their_own(tmp_path, monkeypatch):
    paths = []
    for number in (1, 2, 1, 3, 2):
        monkeypatch.setattr(record, "machine", lambda number=number: {"processor": f"processor {number}"})
        paths.append(record.record("networks", {"results": [number]}, folder=tmp_path))
        assert record.recorded("networks", folder=tmp_path)["results"] == [number]
    first, second, again, third, last = paths
    assert first == again and second == last and len({first, second, third}) == len(list(tmp_path.iterdir())) == 3
    assert [json.loads(path.read_text())["networks"]["results"] for path in (first, second, third)] == [[1], [2], [3]]


def test_cpu_cases_are_those_of_the_goal():
    assert cpu.CASES[Case("lenet5", "training", 64)] == 4.5
    assert len(cpu.CASES) == 4 and {case.job for case in cpu.CASES} == {"training"}


def _run(folder: Path, seconds: float = 100) -> gpu.Run:
    return gpu.Run("numpy", gpu.Clock(seconds), folder, rehearse=True)


def _report(folder: Path) -> dict:
    return json.loads((folder / "gpu.json").read_text())


def test_gpu_script_without_time_names_what_it_left_out(tmp_path):
    run = _run(tmp_path, 0)
    gpu.throughput(run, "training")
    gpu.operations(run)
    assert "lenet5 training, batch 8" in run.notes[0] and "resnet20 training, batch 8" in run.notes[0]
    assert len(run.notes) == 2


@pytest.mark.slow
def test_gpu_script_stops_a_command_that_takes_too_long(tmp_path):
    row = gpu.execute(
        [sys.executable, "-c", "import time; print('so far', flush=True); time.sleep(60)"], 3, _run(tmp_path)
    )
    assert row["passed"] is None and row["output"].strip() == "so far"
    assert gpu.verdict(row) == "not finished in time: so far"
    assert not gpu.failed(row) and gpu.failed({"a step": {"passed": False}})


def test_gpu_script_writes_each_case_before_the_next(tmp_path, monkeypatch):
    seen = []

    def measured(cases, used, **options):
        seen.append(_report(tmp_path)["training"]["results"] if seen else [])
        if len(seen) == 2:
            raise RuntimeError("out of luck")
        return {"results": [], "ratios": [{"case": str(cases[0])}], "notes": []}

    monkeypatch.setattr(gpu, "bench", measured)
    monkeypatch.setattr(gpu, "show", lambda part: None)
    gpu.throughput(_run(tmp_path), "training")
    report = _report(tmp_path)
    assert [row["case"] for row in report["training"]["ratios"]] == [
        f"{m} training, batch 8" for m in ("lenet5", "resnet20")
    ]
    assert report["notes"] == ["vgg_small training, batch 8: RuntimeError: out of luck"]


def test_gpu_cases_are_those_of_the_goals():
    assert {("lenet5", 64), ("lenet5", 512), ("vgg_small", 128), ("resnet20", 128)} == set(gpu.CASES[:4])
    assert {batch for _, batch in gpu.CASES} == {64, 128, 512}


_BLOCKED = """
import importlib.machinery, sys
class Absent:
    def create_module(self, spec): return None
    def exec_module(self, module): raise ModuleNotFoundError(f"No module named {module.__name__!r}")
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED: return importlib.machinery.ModuleSpec(name, Absent())
BLOCKED = {"numba", "llvmlite", "scipy", "sklearn", "typer", "rich", "PIL", "matplotlib", "safetensors", "hypothesis"}
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.slow
def test_gpu_script_rehearsed_on_a_bare_machine(tmp_path):
    """numpy, torch and pytest alone, as on a machine that was set up for CUDA and nothing else."""
    (tmp_path / "sitecustomize.py").write_text(_BLOCKED)
    root, script = Path(cpu.__file__).parents[1], Path(cpu.__file__).with_name("gpu.py")
    parts = "sanitizer,bits,training,tests"
    command = [sys.executable, str(script), str(tmp_path / "out"), "--rehearse", "--backend", "numpy", "--only", parts]
    settings = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(
        [*command, "--minutes", "1.5"], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    report = _report(tmp_path / "out")
    assert (run.returncode, report["ended"]) == (0, "passed"), run.stdout[-2000:] + run.stderr[-2000:]
    assert report["bits"]["passed"] and "small regression" in report["bits"]["output"]
    assert report["training"]["results"][0]["model"] == "lenet5"
    assert [row["passed"] for row in report["sanitizer"].values()] == [True] * 3


@pytest.mark.parametrize("script", ["cpu", "gpu", "operations", "pytorch_agreement", "tables"])
def test_scripts_explain_themselves(script):
    path = Path(cpu.__file__).with_name(f"{script}.py")
    root = str(path.parent.parent)
    run = subprocess.run(
        [sys.executable, str(path), "--help"], cwd=root, env={"PYTHONPATH": root}, capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_dependent_launch_says_what_is_missing():
    """In one sentence, without a module and without a GPU."""
    root = Path(dependent_launch.__file__).parents[1]
    for hidden in ("import sys; sys.modules['cuda.bindings'] = None", ""):
        code = f"{hidden}\nimport runpy; runpy.run_path({dependent_launch.__file__!r}, run_name='__main__')"
        environment = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 1 and len(run.stderr.strip().splitlines()) == 1, run.stderr


def test_dependent_launch_sets_the_attribute_and_prints_medians(monkeypatch, capsys):
    """With a made-up driver; the attribute is on each launch but the plain kernel's."""
    driver, allowed = pytest.importorskip("cuda.bindings.driver"), []

    class Driver:
        def __getattr__(self, name):
            if not name.startswith("cu"):
                return getattr(driver, name)
            results = {"cuStreamCreate": driver.CUstream(7), "cuDeviceGetAttribute": 9, "cuEventElapsedTime": 0.14}

            def call(*arguments):
                if name == "cuLaunchKernelEx":
                    config = arguments[0]
                    allowed.append(sum(a.value.programmaticStreamSerializationAllowed for a in config.attrs))
                return driver.CUresult.CUDA_SUCCESS, results.get(name, 1)

            return call

    monkeypatch.setattr("cuda.bindings.driver", Driver())
    made = SimpleNamespace(code=b"", symbols={name: name for name in dependent_launch.KERNELS})
    monkeypatch.setattr(dependent_launch, "translate", lambda *arguments, **options: made)
    dependent_launch.main()
    chain = dependent_launch.LENGTH
    assert allowed == ([0] * chain + [1] * 2 * chain) * len(dependent_launch.GRIDS)
    assert capsys.readouterr().out.count("'plain': 1.0, 'waits': 1.0, 'lets_in': 1.0") == len(dependent_launch.GRIDS)
