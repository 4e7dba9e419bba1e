"""Pictures: each function writes a PNG and returns the numbers that it shows.

    from gpucnn import show
    weights = show.filters(model, "filters.png")
    best = show.match(image, [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]], "match.png")

Every function takes the picture's path; without it most only compute. If no PNG can be written there, it raises
ConfigurationError before anything is computed.
"""

from gpucnn.show.filters import filters
from gpucnn.show.inputs import inputs
from gpucnn.show.learning import Mistake, confusion, curves, doubts, mistakes
from gpucnn.show.maps import maps
from gpucnn.show.match import Match, match
from gpucnn.show.pixels import pixel_use
from gpucnn.show.reasons import gradcam, occlusion, saliency
from gpucnn.show.scores import Scores, Sighting, digit_page, scores

__all__ = [
    "Match",
    "Mistake",
    "Scores",
    "Sighting",
    "confusion",
    "curves",
    "digit_page",
    "doubts",
    "filters",
    "gradcam",
    "inputs",
    "maps",
    "match",
    "mistakes",
    "occlusion",
    "pixel_use",
    "saliency",
    "scores",
]
