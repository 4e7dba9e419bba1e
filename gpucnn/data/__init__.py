"""Images to train on: `load("digits")`, a set that `fetch` has brought, or the path of files of your own.

train, test = gpucnn.data.load("digits")
"""

from gpucnn.data.dataset import Dataset
from gpucnn.data.drawing import Style
from gpucnn.data.fetch import fetch
from gpucnn.data.images import load_images
from gpucnn.data.known import KNOWN
from gpucnn.data.load import load
from gpucnn.data.mapped import Mapped
from gpucnn.data.parts import with_parts

__all__ = ["KNOWN", "Dataset", "Mapped", "Style", "fetch", "load", "load_images", "with_parts"]
