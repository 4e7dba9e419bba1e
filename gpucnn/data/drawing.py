"""A drawing by hand or a photo of one, brought to what a network's training images look like.

A network reads what resembles the images that it has learned from. MNIST's authors scaled each digit into a box of
20x20 pixels, proportions kept, and put its centre of mass into the middle of 28x28 (LeCun, Bottou, Bengio and Haffner,
1998, section III.A); other sets were prepared in other ways. `Style.of` measures the way from the training images
themselves, and `Style.prepare` does the same to a drawing of any size, place and colour of ink:

1. ink: the paper is the drawing's most frequent value, in a photo a surface that changes slowly; ink is what departs
   from it on the side where most departs
2. pen: strokes thinner than those of the training images are widened to them
3. scale: the longer side of the ink's box becomes that of the training images
4. centre: along each axis the middle of the box or the centre of mass, whichever varies less from one training image
   to the next, goes to where it is in those
5. levels: paper and the strongest ink get the training images' values
"""

from dataclasses import dataclass

import numpy as np

from gpucnn.data.mapped import Mapped
from gpucnn.errors import DataError

_INK = 0.25  # of the strongest ink: what the box is drawn around
_FAINT = 0.02  # departures from the paper that are no ink at all
_LEVELS = 32  # between the lowest and the highest value: what counts as alike
_BLANK = 0.3  # of a training image is paper: it is a drawing, not a photo
_COLOURED = 0.25  # between the channels of a pixel: it has a colour
_FEW = 0.05  # of the training images may be coloured
_STEADY = 0.1  # of a side: how far the ink may be moved from one training image to the next
_ALIKE = 0.25  # relative: what may differ between images of one style
_WORKED = 96  # pixels of the longer side on which strokes are widened
_EVEN = 0.5  # of a drawing's pixels have the paper's value: it is no photo
_FITTED = 20_000  # pixels of a photo that its paper is fitted to
_ROUNDS = 12
MEASURED = 2000  # training images that are looked at


@dataclass(frozen=True)
class Style:
    """How training images (C, H, W) are made, lengths in pixels.

    `shape` is (C, H, W); `paper` and `ink` are the values of the ground and of the strongest ink; `block`: each value
    is repeated over so many pixels a side; `longest`: the longer side of the ink's box; `centre`: for both axes, ("box"
    or "mass", position), where the middle of the first pixel is 0.5; `pen`: the width of a stroke; `blank`: the part of
    an image that is paper; `moved`: how far the centre varies, as part of a side; `coloured`: the part of the images
    that have a colour.
    """

    shape: tuple[int, int, int]
    paper: float
    ink: float
    block: int
    longest: float
    centre: tuple[tuple[str, float], tuple[str, float]]
    pen: float
    blank: float
    moved: float
    coloured: float

    @classmethod
    def of(cls, images: np.ndarray | Mapped) -> "Style":
        """The style of training images (N, C, H, W), C being 1 or 3; of many the first 2,000 are measured.

        Raises DataError for another C, and where no image has any ink.
        """
        some = np.asarray(images[:MEASURED])
        if some.ndim != 4 or some.shape[1] not in (1, 3):
            raise DataError(f"the training images have shape {some.shape}; a drawing becomes (1 or 3, H, W) only")
        grey = some.mean(axis=1, dtype=np.float64)  # (N, H, W)
        block = next(b for b in (8, 4, 2, 1) if _repeats(grey, b))
        grey = grey[:, ::block, ::block]
        paper = _paper(grey)
        light = _light(grey, paper)
        inked = [_ink(image, paper, light) for image in grey]
        boxes = [box for ink, peak in inked if (box := Box.of(ink, peak))]
        if not boxes:
            raise DataError("none of the training images has ink on it: every pixel has the same value")
        middles, masses = (np.array([getattr(box, name) for box in boxes]) for name in ("middle", "mass"))

        def steadiest(axis: int) -> tuple[str, np.ndarray]:
            return min((("box", middles[:, axis]), ("mass", masses[:, axis])), key=lambda pair: pair[1].std())

        (row, rows), (column, columns) = steadiest(0), steadiest(1)
        strongest = float(np.median([peak for _, peak in inked if peak > _FAINT]))
        return cls(
            some.shape[1:],
            paper,
            paper + strongest if light else paper - strongest,
            block,
            float(np.median([box.longest for box in boxes])) * block,
            ((row, float(rows.mean()) * block), (column, float(columns.mean()) * block)),
            float(np.median([_stroke(ink) for ink, peak in inked if peak > _FAINT])) * block,
            float(np.median((np.abs(grey - paper) <= _FAINT).mean(axis=(1, 2)))),
            float(max(rows.std() / grey.shape[1], columns.std() / grey.shape[2])),
            float((np.ptp(some, axis=1).max(axis=(1, 2)) > _COLOURED).mean()),
        )

    @property
    def is_of_drawings(self) -> bool:
        """Whether the training images are ink on paper: no photos that fill their frame, nothing that has colours or
        lies anywhere, as fruit on a white ground or a tone in a spectrogram, where colour or place tell something.
        """
        return self.blank >= _BLANK and self.moved <= _STEADY and self.coloured <= _FEW

    def fits(self, image: np.ndarray) -> bool:
        """Whether an image (C, H, W) looks like the training images: its size, paper, ink and the ink's box."""
        if image.shape != self.shape:
            return False
        grey = image.mean(axis=0, dtype=np.float64)
        if not _repeats(grey[None], self.block):
            return False
        paper, contrast = _paper(grey), abs(self.ink - self.paper)
        ink, peak = _ink(grey, self.paper, self.ink > self.paper)
        box = Box.of(ink, peak)
        return (
            abs(paper - self.paper) <= _ALIKE * contrast
            and box is not None
            and abs(peak - contrast) <= _ALIKE * contrast
            and abs(box.longest - self.longest) <= _ALIKE * self.longest
        )

    def mismatch(self, images: np.ndarray) -> str | None:
        """In words how the ink of images (N, C, H, W) differs from that of the training images; None if it is alike."""
        if not self.is_of_drawings:
            return None
        grey = images.mean(axis=1, dtype=np.float64)
        middle = (self.paper + self.ink) / 2
        other = [image for image in grey if (_paper(image) > middle) != (self.paper > middle)]
        if not other:
            return None
        ours, theirs = ("dark ink on light paper", "light ink on dark paper")[:: 1 if self.paper < self.ink else -1]
        return f"{len(other)} of {len(grey)} images are {ours}, but the network was trained on {theirs}"

    def prepare(self, drawing: np.ndarray) -> "Prepared":
        """A drawing (h, w) of grey values, larger is lighter, as an image of this style.

        Raises DataError for what is no picture, and for an empty one.
        """
        drawing = np.asarray(drawing, np.float64)
        if drawing.ndim != 2 or 0 in drawing.shape or not np.isfinite(drawing).all():
            raise DataError(f"a drawing has shape (h, w) and finite grey values; this one has shape {drawing.shape}")
        departure = _flattened(drawing)
        light = _light(departure[None], 0.0)
        ink, peak = _ink(departure, 0.0, light)
        box = Box.of(ink, peak)
        if box is None:
            raise DataError("nothing is drawn: every pixel has the same value")
        cell = self.block
        goal = [position / cell for _, position in self.centre]
        small, scale, here = self._scaled(ink, box, goal)
        small = small / max(small.max(), _FAINT)
        grey = self.paper + small * (self.ink - self.paper)
        image = grey.repeat(cell, axis=0).repeat(cell, axis=1).astype(np.float32)
        image = np.ascontiguousarray(np.broadcast_to(image, self.shape))
        stretched = (h / size * pixels for h, size, pixels in zip(here, drawing.shape, self.shape[1:]))
        down, right = (g * cell - s for g, s in zip(goal, stretched))
        return Prepared(image, light, ink, (box.top, box.left, box.bottom, box.right), scale * cell, (down, right))

    def _scaled(self, ink: np.ndarray, box: "Box", goal: list[float]) -> tuple[np.ndarray, float, list[float]]:
        """(cells of the new image, cells a pixel of the drawing, the point of the drawing that goes to `goal`)."""
        cell, reduced = self.block, _WORKED / box.longest
        part = ink[box.top : box.bottom, box.left : box.right]
        part = _resized(part, [max(1, round(size * reduced)) for size in part.shape])
        radius = max(0, round((self.pen / self.longest * _WORKED - _stroke(part)) / 2))
        part = _widened(part, radius)
        wide = Box.of(part, 1.0)
        assert wide is not None  # there is ink in the box
        scale = self.longest / cell / wide.longest
        here = [(wide.middle if kind == "box" else wide.mass)[axis] for axis, (kind, _) in enumerate(self.centre)]
        small = _resampled(part, scale, here, goal, (self.shape[1] // cell, self.shape[2] // cell))
        corner = box.top - radius / reduced, box.left - radius / reduced
        return small, scale * reduced, [start + h / reduced for start, h in zip(corner, here)]


@dataclass(frozen=True, eq=False)
class Prepared:
    """`image` (C, H, W) float32, and how it came to be: whether the drawing's ink was lighter than its paper, `ink`
    (h, w) from 0 to 1, the ink's `box` (top, left, bottom, right) in the drawing's pixels, the `scale` in pixels of the
    image a pixel of the drawing, and by how many of the image's pixels (down, right) the ink `moved`, beside
    stretching the whole drawing onto the image.
    """

    image: np.ndarray
    light_ink: bool
    ink: np.ndarray
    box: tuple[int, int, int, int]
    scale: float
    moved: tuple[float, float]


@dataclass(frozen=True)
class Box:
    """The smallest box around the ink, `bottom` and `right` exclusive, and the ink's centre of mass (down, right)."""

    top: int
    left: int
    bottom: int
    right: int
    mass: tuple[float, float]

    @classmethod
    def of(cls, ink: np.ndarray, peak: float) -> "Box | None":
        """Of ink (h, w) whose strongest is 1 and was `peak`; None where that is no ink at all."""
        if peak <= _FAINT:
            return None
        rows, columns = (np.flatnonzero((ink >= _INK).any(axis=axis)) for axis in (1, 0))
        down, right = (
            float((ink.sum(axis=1 - axis) * (np.arange(ink.shape[axis]) + 0.5)).sum() / ink.sum()) for axis in range(2)
        )
        return cls(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1, (down, right))

    @property
    def longest(self) -> int:
        return max(self.bottom - self.top, self.right - self.left)

    @property
    def middle(self) -> tuple[float, float]:
        return (self.top + self.bottom) / 2, (self.left + self.right) / 2


def _repeats(images: np.ndarray, block: int) -> bool:
    """Whether images (N, H, W) consist of squares of `block` equal pixels a side."""
    height, width = images.shape[1:]
    if height % block or width % block:
        return False
    return bool((images[:, ::block, ::block].repeat(block, axis=1).repeat(block, axis=2) == images).all())


def _paper(images: np.ndarray) -> float:
    """The most frequent value, of values that are nearly alike their median."""
    low, high = float(images.min()), float(images.max())
    bins = np.minimum(((images - low) / max(high - low, _FAINT) * _LEVELS).astype(np.int64), _LEVELS - 1)
    return float(np.median(images[bins == np.bincount(bins.ravel()).argmax()]))


def _flattened(drawing: np.ndarray) -> np.ndarray:
    """How far each value of a drawing (h, w) departs from its paper, 0 where that is no more than the paper's grain.

    A photo's paper is lighter on one side: it is a quadratic surface, fitted to ever fewer pixels, those near it.
    """
    height, width = drawing.shape
    departure = drawing - _paper(drawing)
    if (np.abs(departure) <= _FAINT).mean() >= _EVEN:
        return np.where(np.abs(departure) <= _FAINT, 0, departure)
    down, right = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    surface = np.stack([np.ones_like(down), down, right, down * right, down**2, right**2], axis=-1)
    step = max(1, int(np.sqrt(drawing.size / _FITTED)))
    some, values = (a[::step, ::step].reshape(-1, *a.shape[2:]) for a in (surface, drawing))
    near = np.ones(len(values), bool)
    grain = 1.4826 / 2**0.5 * float(np.median(np.abs(np.diff(drawing[::step, ::step], axis=0))))  # of normal noise
    for _ in range(_ROUNDS):
        weights = np.linalg.lstsq(some[near], values[near], rcond=None)[0]
        off = np.abs(values - some @ weights)
        near = off <= max(2.5 * grain, np.quantile(off, _EVEN), _FAINT)
    departure = drawing - surface @ weights
    return np.sign(departure) * np.maximum(np.abs(departure) - max(4 * grain, _FAINT), 0)


def _light(images: np.ndarray, paper: float) -> bool:
    """Whether the ink of images (N, h, w) is lighter than the paper."""
    above = np.maximum(images - paper, 0).sum()
    return bool(above >= np.maximum(paper - images, 0).sum())


def _ink(image: np.ndarray, paper: float, light: bool) -> tuple[np.ndarray, float]:
    """(ink (h, w) from 0 to 1, how far the strongest departs from the paper)."""
    ink = np.maximum(image - paper if light else paper - image, 0)
    peak = float(ink.max())
    return (ink / peak if peak > 0 else ink), peak


def _stroke(ink: np.ndarray) -> float:
    """The width of the strokes of ink (h, w): of a long line twice its area divided by its outline's length."""
    padded = np.pad(ink, 1)
    outline = np.hypot(np.diff(padded, axis=0)[:, :-1], np.diff(padded, axis=1)[:-1]).sum()
    return 2 * float(ink.sum() / outline)


def _widened(ink: np.ndarray, radius: int) -> np.ndarray:
    """Ink (h, w) with strokes wider by `radius` on both sides, (h + 2 * radius, w + 2 * radius)."""
    around = np.pad(ink, 2 * radius)
    height, width = (size + 2 * radius for size in ink.shape)
    wide = np.zeros((height, width))
    for down, right in np.ndindex(2 * radius + 1, 2 * radius + 1):
        if (down - radius) ** 2 + (right - radius) ** 2 <= radius * (radius + 0.5):  # a round pen
            np.maximum(wide, around[down : down + height, right : right + width], out=wide)
    return wide


def _resized(ink: np.ndarray, shape: list[int]) -> np.ndarray:
    """Ink at another size, each pixel the mean of what it covers."""
    from PIL import Image

    method = Image.Resampling.BOX if shape[0] < ink.shape[0] else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(ink.astype(np.float32)).resize((shape[1], shape[0]), method), np.float64)


def _resampled(ink: np.ndarray, scale: float, here, goal, shape: tuple[int, int]) -> np.ndarray:
    """`ink` at `scale` on a ground of `shape`, the point `here` at `goal`; each pixel the mean of what it covers."""
    from PIL import Image

    # The part of the drawing that the new image shows; around the drawing there is paper.
    top, left = (h - g / scale for h, g in zip(here, goal))
    bottom, right = (start + size / scale for start, size in zip((top, left), shape))
    height, width = ink.shape
    before = [max(0, int(np.ceil(-start))) for start in (top, left)]
    after = [max(0, int(np.ceil(stop - size))) for stop, size in ((bottom, height), (right, width))]
    padded = np.pad(ink, list(zip(before, after))).astype(np.float32)
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    part = (left + before[1], top + before[0], right + before[1], bottom + before[0])
    stops = padded.shape[1], padded.shape[0]
    part = tuple(min(max(edge, 0.0), float(stops[i % 2])) for i, edge in enumerate(part))  # rounding, no more
    return np.asarray(Image.fromarray(padded).resize((shape[1], shape[0]), method, box=part), np.float64)
