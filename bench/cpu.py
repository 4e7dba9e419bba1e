"""Training whole networks on the CPU compared with PyTorch at its best: the figures in the README.

    python bench/cpu.py [--threads N] [--seconds 6] [--only lenet5] [--eager] [--no-pytorch] [--dry]

Results are checked first. Writes the section "networks" of bench/results/cpu-DATE.json unless --dry.
"""

import argparse
import sys

from gpucnn.backends import get_backend
from gpucnn.throughput import Case, bench
from gpucnn.throughput.report import PEERS, disturbance
from record import record

# The target of each case: a ratio to PyTorch's throughput
CASES = {
    Case("lenet5", "training", 64): 4.5,
    Case("lenet5", "training", 512): 4.0,
    Case("vgg_small", "training", 128): 1.2,
    Case("resnet20", "training", 128): 1.2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each contender of a case")
    parser.add_argument(
        "--only", default="", help='cases whose name contains this, such as "lenet5 training, batch 64"'
    )
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--no-pytorch", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    report = bench(
        [case for case in CASES if options.only in str(case)],
        [get_backend("numba", threads=options.threads)],
        seconds=options.seconds,
        patience=3,
        peer=not options.no_pytorch,
        compiled=not options.eager,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    show(report)
    if not options.dry:
        print(f"written to {record('networks', report)}")


def show(report: dict) -> None:
    """Print one line per result, then one per ratio with the project's target."""
    for row in report["results"]:
        name = f"{row['model']} {row['job']} {row['batch']}"
        print(
            f"{name:28}{row['backend']:9}{row['images_per_second']:11,.0f} images/s  {row['milliseconds']:8.3f} ms"
            f"  spread {row['spread']:4.0%}  peak {row['peak_fraction'] or 0:4.0%}"
            f"  quiet {row['quiet_slices']}/{row['slices']}  {row.get('variant', '')}"
        )
    for row in report["ratios"]:
        case = Case(row["model"], row["job"], row["batch"])
        low, high = row["quartiles"]
        about = f"{low:.2f} to {high:.2f}; {row['variant']}"
        print(f"{case!s:34} {row['ratio']:5.2f} times {PEERS[row['peer']]} ({about}); target {CASES.get(case)}")
    print(disturbance(report["results"]))
    for note in report["notes"]:
        print(f"note: {note}")


if __name__ == "__main__":
    main()
