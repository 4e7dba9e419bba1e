"""Many trainings, one for each choice of model, learning rate and seed, by workers on one or several machines.

Optuna's study says which training is next, and keeps that in a journal: a file that all workers append to, which a
shared folder is enough for. Dask would need a scheduler that runs all the time. Each training is an
ordinary run folder.
"""

from gpucnn.sweep.plan import Plan
from gpucnn.sweep.report import draw, rows
from gpucnn.sweep.study import Sweep

__all__ = ["Plan", "Sweep", "draw", "rows"]
