"""Inference: plans that compute a network's outputs without its layers' Python (see gpucnn/models/plans.py)."""

from typing import Protocol

import numpy as np


class Unplannable(Exception):
    """Something is computed that is no operation of a backend in inference, or one that a backend has no plan for."""


class Plan(Protocol):
    """What computes the outputs of a fixed count of images."""

    bytes: int
    seal: object | None  # of the weights at the last run, see gpucnn/models/weights.py

    def run(self, images: np.ndarray, outputs: np.ndarray, again: bool) -> bool:
        """outputs (count, *output_shape) from images (count, *image_shape), both contiguous.

        `again`: the weights are those of this plan's last run. Returns whether all values of the images are finite.
        """
