"""What several processes, or pieces of a batch, need to train one model: what they can compute, and what must agree."""

from typing import Any

from gpucnn.errors import BackendError, ConfigurationError
from gpucnn.layers.norm import BatchNorm
from gpucnn.layers.own import label
from gpucnn.recordable import is_recordable

# Of the class in trainer.py, which imports this module.
Trainer = Any


def check_sharing(trainer: Trainer) -> None:
    """Raises ConfigurationError or BackendError for what cannot be computed in parts."""
    if trainer.processes.size == trainer.pieces == 1:
        return
    backend = trainer.backend
    if not backend.shares_batches:
        raise BackendError(
            f"backend {backend.name} with {backend.math} math cannot compute a part of a batch; several "
            "processes and pieces need exact math on numba, cupy or numpy"
        )
    layers = list(trainer.model.layer.walk())
    obstacle = next((part for part in (*layers, trainer.loss) if not is_recordable(part)), None)
    if obstacle is not None:
        raise ConfigurationError(
            f"{type(obstacle).__name__} does not declare recordable = True, so it may sum over a part of the batch "
            "only; with several processes or pieces, layers and losses must compute with backend operations alone"
        )
    whole = next((layer for layer in layers if isinstance(layer, BatchNorm) and layer.trainable), None)
    if trainer.pieces > 1 and whole is not None:
        raise ConfigurationError(
            f"{label(whole)} needs the statistics of the whole batch, which pieces computed one after the other do "
            "not have; use pieces=1, more processes, or group norm"
        )


def how_fed(first: str, other: str) -> str:
    return (
        "was given other batches than process 0; each process must make the same ones, in the same order, and computes "
        "its part of them: give what shuffles or draws them the same seed"
    )


def how_diverged(first: str, other: str) -> str:
    return (
        f"has other weights than process 0 (SHA-256 {other[:12]} and {first[:12]}): a fault of memory, processor or "
        "library; the last checkpoint is from before, continue it with resume=True (--resume)"
    )
