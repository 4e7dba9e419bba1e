"""A worker of a sweep: python -m gpucnn.sweep.worker FOLDER THREADS."""

import sys

from gpucnn import interrupts
from gpucnn.errors import GpucnnError
from gpucnn.sweep.study import Sweep


def main() -> None:
    """Train until nothing is left."""
    folder, threads = sys.argv[1:]
    try:
        with interrupts.terminated():
            Sweep(folder).work(int(threads), lambda text: print(text, file=sys.stderr, flush=True))
    except KeyboardInterrupt:  # the command says so
        raise SystemExit(interrupts.EXIT) from None
    except GpucnnError as error:
        print(f"gpucnn: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
