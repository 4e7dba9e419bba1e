"""Each 3x3 convolution of 32 to 128 channels, forward and both gradients, one at a time, compared with the peak.

    python bench/operations.py [--threads N] [--batch 128] [--seconds 3] [--only 16x16] [--no-pytorch] [--dry]

Results are checked against float64 first. Writes the section "operations" of bench/results/cpu-DATE.json unless --dry.
"""

import argparse
import sys

from gpucnn.backends import get_backend
from gpucnn.throughput.operations import CONVOLUTIONS, measure
from gpucnn.throughput.quiet import others_now, warning
from gpucnn.throughput.report import disturbance
from record import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each contender")
    parser.add_argument("--only", default="", help="convolutions whose name contains this, such as 16x16")
    parser.add_argument("--no-pytorch", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    busy = others_now()
    print(warning(busy) or "the machine is quiet", file=sys.stderr)
    chosen = [c for c in CONVOLUTIONS if options.only in str(c)]
    report = measure(
        chosen,
        options.batch,
        get_backend("numba", threads=options.threads),
        options.seconds,
        patience=3,
        peer=not options.no_pytorch,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(
        f"largest error: {report['largest_error']:.2f} of the derived bound. Peak: fraction of the measured peak,\n"
        "taps on padding counted; inside: not counted. Quiet: slices without other processes."
    )
    head = [("convolution", 22), ("pass", 17), ("ms", -8), ("GFLOP/s", -9), ("peak", -7), ("inside", -8)]
    head += [("PyTorch ms", -12), ("ratio", -7), ("quiet", -8)]
    print("".join(text.ljust(width) if width > 0 else text.rjust(-width) for text, width in head))
    for row in report["results"]:
        theirs = min(row.get("pytorch_milliseconds", {"": float("nan")}).values())
        print(
            f"{row['operation']:22}{row['pass']:17}{row['milliseconds']:8.2f}{row['gflops']:9.0f}"
            f"{row['peak_fraction']:7.0%}{row['peak_fraction_inside']:8.0%}{theirs:12.2f}"
            f"{row.get('ratio', float('nan')):7.2f}{row['quiet_slices']:>5}/{row['slices']}"
        )
    print(disturbance(report["results"]))
    if not options.dry:
        print(f"written to {record('operations', {'busy_before': busy, **report})}")


if __name__ == "__main__":
    main()
