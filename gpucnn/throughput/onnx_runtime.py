"""The other peer: the same network with the same weights in ONNX Runtime, for inference on the CPU.

Used if it is installed and never needed. It runs what `gpucnn.export_onnx` writes, with all its optimisations on, which
are its default, and the same number of threads.
"""

import importlib.util
import itertools
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from gpucnn.backends import get_backend
from gpucnn.errors import BackendError
from gpucnn.models.onnx_export import export_onnx
from gpucnn.throughput.jobs import Case, Prepared
from gpucnn.throughput.timing import Contender

# Of the largest output: float32 in another order.
_TOLERANCE = 1e-3


def installed() -> bool:
    """Whether ONNX Runtime, and onnx to write its models, can be imported; they are not imported for the answer."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def prepare(case: Case, threads: int) -> tuple[Prepared, float]:
    """ONNX Runtime's side of a case of inference, and the largest difference of its results from ours, of the largest.

    Raises BackendError if that says that it computes something else.
    """
    import onnxruntime

    model, images = case.build(), case.data()[0]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    started = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    transferred = perf_counter()
    name, run = session.get_inputs()[0].name, session.run
    theirs = run(None, {name: images[: case.batch]})[0]
    first = perf_counter() - transferred
    model.place(get_backend("numpy", "fast"))
    ours = model(images[: case.batch])[0].numpy()
    error = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    if not error < _TOLERANCE:
        raise BackendError(f"ONNX Runtime's outputs for {case} differ by {error:.1e} of the largest; nothing was timed")
    turn = itertools.cycle(images.reshape(-1, case.batch, *images.shape[1:]))
    contender = Contender(lambda: run(None, {name: next(turn)}))
    return Prepared(contender, transferred - started, first), error
