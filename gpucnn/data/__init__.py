"""Images to train on: `load("digits")`, or the path of an MNIST folder, an `.npz` file or a folder of images.

    train, test = gpucnn.data.load("digits")
"""

from gpucnn.data.dataset import Dataset
from gpucnn.data.images import load_images
from gpucnn.data.load import load

__all__ = ["Dataset", "load", "load_images"]
