"""Training: the loop, its run folders, and model files."""

from gpucnn.models.files import load, save
from gpucnn.training.callbacks import Callback
from gpucnn.training.comparison import compare
from gpucnn.training.doubts import Doubt, doubtful_labels, out_of_fold
from gpucnn.training.history import History
from gpucnn.training.progress import Bar, Lines, Quiet
from gpucnn.training.run import Run, load_run
from gpucnn.training.trainer import Trainer

__all__ = [
    "Bar",
    "Callback",
    "Doubt",
    "History",
    "Lines",
    "Quiet",
    "Run",
    "Trainer",
    "compare",
    "doubtful_labels",
    "load",
    "load_run",
    "out_of_fold",
    "save",
]
