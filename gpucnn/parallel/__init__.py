"""Several processes, on one or several machines, that train one network to the bits of one process.

MPI moves the bytes, gpucnn adds: kernels/CONTRACT.md fixes the tree. docs/distributed.md tells how to use it.
"""

from gpucnn.parallel.division import Division
from gpucnn.parallel.processes import Alone, Processes, join, started

__all__ = ["Alone", "Division", "Processes", "join", "started"]
