"""Every error that gpucnn raises on purpose.

A message says what arrived, what was expected and what to do. The command line turns each of them into one sentence and
exit code 2; beside them only a lack of memory is caught there.
"""


class GpucnnError(Exception):
    """Base of all errors about what the user gave or what this machine lacks."""


class ShapeError(GpucnnError, ValueError):
    """Sizes that do not fit together: ranks, channels, kernels larger than their padded input, uneven strides."""


class DTypeError(GpucnnError, TypeError):
    """Numbers of a type that the operation does not take: float64 in exact math, fractional labels."""


class ConfigurationError(GpucnnError, ValueError):
    """A wrong name or setting: unknown model, optimiser or padding mode, a rate outside its range."""


class BackendError(GpucnnError, RuntimeError):
    """A backend that is unknown, not usable on this machine, or asked for math it does not have."""


class DataError(GpucnnError, ValueError):
    """Images or labels that cannot be trained on: unreadable, cut short, NaN, labels out of range."""


class CheckpointError(GpucnnError, ValueError):
    """A checkpoint or run folder that is cut short, of another model, or of another format version."""


class NonFiniteError(GpucnnError, ArithmeticError):
    """Training met an infinity or a NaN in the loss or in the new weights. `epoch` and `step` say where (from 1)."""

    def __init__(self, message: str, epoch: int, step: int):
        super().__init__(message)
        self.epoch = epoch
        self.step = step
