"""Random configurations of convolution, transposed convolution, pooling and norms against PyTorch, with all gradients.

    python bench/pytorch_agreement.py [--count 300] [--seed 0] [--only N ...] [--dry]

Ours is exact math in float32, on numba, and for every tenth configuration on numpy too; PyTorch computes in float64
from the same float32 values. Each value must be within its own derived bound (agreement_bounds.py). Ends with
code 1 if one is not, and says how to run that configuration alone. Writes bench/results/pytorch-agreement-DATE.json
unless --dry or --only is given or something disagrees.
"""

import argparse
import importlib.util
import sys
import warnings
from collections.abc import Iterable

import numpy as np

from gpucnn.errors import GpucnnError
from record import record

BOUND = (
    "k * 2**-24 * sum|x||w|, magnitudes and k by the same PyTorch operation on |values| and on ones; norms by the "
    "chain of roundings; see bench/agreement_bounds.py"
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="configurations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="these configurations of the seed, in detail")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args(arguments)
    if options.count < 1 or min(options.seed, *(options.only or [0])) < 0:
        parser.error("--count is 1 or more, --seed and --only are 0 or more")
    if importlib.util.find_spec("torch") is None:
        parser.error("this script compares with PyTorch, which is not installed: pip install torch")
    rows = judge(options.only or range(options.count), options.seed, say=note)
    report = summary(rows)
    print(table(report))
    wrong = [row for row in rows if not row["ratio"] <= 1]
    for row in wrong:
        print(
            f"DISAGREES: {describe(row)}\n  python bench/pytorch_agreement.py --seed {options.seed} --only "
            f"{row['number']}"
        )
    if wrong:
        sys.exit(1)
    if not options.dry and not options.only:
        about = {"seed": options.seed, "configurations": options.count, "bound": BOUND, "results": report}
        print(f"written to {record('agreement', about, name='pytorch-agreement')}")


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def judge(numbers: Iterable[int], seed: int, say=lambda text: None) -> list[dict]:
    """A row for each configuration, backend and result: number, operation, settings, backend, result, values, ratio.

    `ratio` is the largest error in units of its bound, infinite for a wrong shape, NaN, or a refused configuration,
    which `problem` describes.
    """
    from agreement_cases import CYCLE, draw

    # PyTorch warns that it makes a copy for padding="same" with even kernels.
    warnings.filterwarnings("ignore", "Using padding='same'")
    rows = []
    for number in numbers:
        case = draw(number, seed)
        expected = case.expected()
        # Every tenth, so that 300 cover each place of the cycle of 30 once.
        both = number % 10 == number // len(CYCLE) % 10
        for backend in ("numba", "numpy") if both else ("numba",):
            about = {"number": number, "operation": case.operation, "settings": case.settings, "backend": backend}
            try:
                ours = case.ours(backend)
            except GpucnnError as error:
                rows.append({**about, "result": "all", "values": 0, "ratio": np.inf, "problem": f"refused: {error}"})
                continue
            rows += [{**about, "result": name, **compare(ours[name], right)} for name, right in expected.items()]
        say(describe(max((row for row in rows if row["number"] == number), key=lambda row: row["ratio"])))
    return rows


def compare(ours: np.ndarray, expected) -> dict:
    """values, ratio, and the problem if there is one."""
    if ours.dtype != np.float32 or ours.shape != expected.value.shape:
        problem = f"{ours.dtype} of shape {ours.shape}, PyTorch's is {expected.value.shape}"
        return {"values": ours.size, "ratio": np.inf, "problem": problem}
    error = np.abs(ours.astype(np.float64) - expected.value)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / expected.bound)
    ratio = np.where(np.isfinite(ours), ratio, np.inf)
    return {"values": ours.size, "ratio": float(ratio.max())}


def describe(row: dict) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
    problem = f" ({row['problem']})" if "problem" in row else ""
    return (
        f"configuration {row['number']}, {row['operation']} on {row['backend']}: {row['result']} is "
        f"{row['ratio']:.3g} of the bound away{problem}; {settings}"
    )


def summary(rows: list[dict]) -> list[dict]:
    """One entry per operation, in the order of their first configurations, and the worst of each of its results."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["operation"], []).append(row)
    report = []
    for operation, group in groups.items():
        worst = max(group, key=lambda row: row["ratio"])
        names = dict.fromkeys(row["result"] for row in group)
        report.append(
            {
                "operation": operation,
                "configurations": len({row["number"] for row in group}),
                "on_numpy_too": len({row["number"] for row in group if row["backend"] == "numpy"}),
                "values": sum(row["values"] for row in group),
                "worst_ratio": worst["ratio"],
                "worst": {name: worst[name] for name in ("number", "backend", "result", "settings")},
                "worst_ratios": {n: max(row["ratio"] for row in group if row["result"] == n) for n in names},
            }
        )
    return report


# The results in each column of the table.
COLUMNS = {
    "y": ("y",),
    "dx": ("dx",),
    "dw, dgamma": ("dw", "dgamma"),
    "db, dbeta": ("db", "dbeta"),
    "running": ("running_mean", "running_var"),
}


def table(report: list[dict]) -> str:
    """One line per operation: how much was compared, and the worst ratio of error to bound of each kind of result."""
    head = f"{'operation':26}{'configurations':>15}{'on numpy too':>14}{'values':>12}"
    lines = [head + "".join(f"{name:>12}" for name in COLUMNS)]
    total = {name: sum(row[name] for row in report) for name in ("configurations", "on_numpy_too", "values")}
    everything = {"operation": "all", **total, "worst_ratios": {}}
    for row in report:
        for name, ratio in row["worst_ratios"].items():
            everything["worst_ratios"][name] = max(ratio, everything["worst_ratios"].get(name, 0.0))
    for row in (*report, everything):
        line = f"{row['operation']:26}{row['configurations']:15}{row['on_numpy_too']:14}{row['values']:12,}"
        for names in COLUMNS.values():
            ratios = [ratio for name, ratio in row["worst_ratios"].items() if name in names]
            line += f"{max(ratios):12.3f}" if ratios else " " * 12
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
