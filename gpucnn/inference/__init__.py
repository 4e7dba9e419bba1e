"""Inference: plans that compute a network's outputs without its layers' Python (see plans.py)."""


class Unplannable(Exception):
    """Something is computed that is no operation of a backend in inference, or one that a backend has no plan for."""
