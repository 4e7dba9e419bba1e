"""A worker of a sweep: python -m gpucnn.sweep.worker FOLDER THREADS."""

import signal
import sys

from gpucnn import interrupts
from gpucnn.errors import GpucnnError
from gpucnn.sweep.study import Sweep


def main() -> None:
    """Train until nothing is left."""
    folder, threads = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(interrupts.EXIT))  # an exception, which ends the training too
    try:
        Sweep(folder).work(int(threads), lambda text: print(text, file=sys.stderr, flush=True))
    except KeyboardInterrupt:  # the command says so
        raise SystemExit(interrupts.EXIT) from None
    except GpucnnError as error:
        print(f"gpucnn: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
