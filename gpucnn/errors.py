"""Every error that gpucnn raises on purpose.

A message says what arrived, what was expected and what to do. The command line turns each of them into one sentence and
exit code 2; apart from them it only catches lack of memory.
"""


class GpucnnError(Exception):
    """Base of all errors about the user's input or what this machine lacks."""

    layer: str | None = None  # the name of the layer in which it was raised
    shared = False  # whether every process that trains along has raised it too


class ShapeError(GpucnnError, ValueError):
    """Sizes that do not fit together: ranks, channels, kernels larger than their padded input, uneven strides."""


class DTypeError(GpucnnError, TypeError):
    """Numbers of a type that the operation does not take: float64 in exact math, fractional labels."""


class ConfigurationError(GpucnnError, ValueError):
    """A wrong name or setting: unknown model, optimizer or padding mode, a rate outside its range."""


class BackendError(GpucnnError, RuntimeError):
    """A backend that is unknown, not usable on this machine, or does not have the requested math mode."""


class DataError(GpucnnError, ValueError):
    """Images or labels that cannot be trained on: unreadable, truncated, NaN, labels out of range."""


class CheckpointError(GpucnnError, ValueError):
    """A checkpoint or run folder that is truncated, of another model, or of another format version."""


class NonFiniteError(GpucnnError, ArithmeticError):
    """Training met an infinity or a NaN in the loss or in the new weights. At `epoch` and `step`, from 1."""

    def __init__(self, message: str, epoch: int, step: int):
        super().__init__(message)
        self.epoch = epoch
        self.step = step

    def __reduce__(self) -> tuple:
        return type(self), (*self.args, self.epoch, self.step), vars(self)


class ProcessError(GpucnnError, RuntimeError):
    """Processes that train together differ: in data, version or settings, or, by a fault, in their weights."""
