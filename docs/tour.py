"""Makes tour.md beside it, with every picture in tour/ and every number: python docs/tour.py

Takes about a minute on two cores. Each step is a function that draws its pictures into a folder (None: draws nothing)
and returns its part of the text; tests/test_tour.py runs them and compares.
"""

import sys
import textwrap
from pathlib import Path

import numpy as np

import gpucnn
from gpucnn import data, figures, functional, show
from gpucnn.errors import ShapeError
from gpucnn.geometry import window
from gpucnn.models import lenet5
from gpucnn.optimizers import AdamW
from gpucnn.schedules import Cosine
from gpucnn.summary import summary

HERE = Path(__file__).resolve().parent
DIAGONAL = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
BLOCKS = [[32, 10, 11, 17], [4, 14, 9, 19], [20, 4, 14, 16], [8, 12, 27, 7]]


def at(folder: Path | None, name: str) -> Path | None:
    """Where a picture goes."""
    return None if folder is None else folder / f"{name}.png"


def grid(values) -> str:
    """A map of numbers as text."""
    return str(np.asarray(values).tolist())


def pattern(folder: Path | None) -> str:
    """A filter that finds a pattern."""
    like = [[-1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    unlike = [[-1, -1, -1], [1, -1, -1], [-1, 1, 1]]
    first = show.match(like, DIAGONAL, at(folder, "match-small"), backend="numpy", math="exact")
    second = show.match(unlike, DIAGONAL, backend="numpy", math="exact")
    cross = -np.ones((9, 9))
    for i in range(1, 8):
        cross[i, i] = cross[i, 8 - i] = 1
    found = show.match(cross, DIAGONAL, at(folder, "match"), backend="numpy", math="exact", name="a cross")
    agree = int((np.array(unlike) == np.array(DIAGONAL)).sum())
    everywhere = [(int(r), int(c)) for r, c in np.argwhere(found.scores == found.score)]
    return f"""## A filter finds a pattern

A filter is a small image of what it looks for. Here white is 1 and black is -1, and the filter is a diagonal stroke:

    filter   {DIAGONAL[0]}
             {DIAGONAL[1]}
             {DIAGONAL[2]}

Lay it on a piece of an image of the same size, multiply each pixel with the weight on top of it, and take the mean of \
the
nine products. Where pixel and weight agree the product is 1, where they differ it is -1. On this piece, a stroke with
its first pixel missing, eight agree and one does not: the score is 7/9 = {first.score:.4f}.

![Image, filter and score](tour/match-small.png)

On another piece, `{grid(unlike)}`, only {agree} agree and {9 - agree} do not: 1/9 = {second.score:.4f}. A perfect \
match scores 1, its negative -1.

Now slide the filter over a larger image, and write down the score at each place. That is a convolution. On a cross of
9x9 pixels the filter of 3x3 has {found.scores.shape[0]}x{found.scores.shape[1]} places, and scores {found.score:g} at \
{len(everywhere)} of them: (row, column) {", ".join(map(str, everywhere))},
everywhere along one stroke of the cross but not in the middle, where the two strokes meet and it scores \
{found.scores[3, 3]:.2f}. On
the other stroke, which leans the other way, it scores {found.scores[1, 5]:.2f}.

![The filter slides over a cross; the map of its scores](tour/match.png)

    gpucnn show match IMAGE --pattern "1,-1,-1;-1,1,-1;-1,-1,1"
"""


def stride(folder: Path | None) -> str:
    """Stride, and how often each pixel is used."""
    small = show.pixel_use(window((3, 3), 2))
    one, two = window((7, 7), 3), window((7, 7), 3, stride=2)
    often = show.pixel_use(one, at(folder, "stride-1"))
    rarely = show.pixel_use(two, at(folder, "stride-2"))
    try:
        window((7, 7), 3, stride=3, strict=True)
    except ShapeError as error:
        refusal = textwrap.fill(str(error), 110, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return f"""## Stride

With a stride of 1 the filter moves on by one pixel at a time. An image of 7x7 pixels has \
{one.output[0]}x{one.output[1]} places for a filter of
3x3: the map of scores has a pixel for each. Windows overlap, so a pixel in the middle is used {often.max()} times and \
a corner
{often.min()} time.

![How often a stride of 1 uses each pixel](tour/stride-1.png)

With a stride of 2 it leaves out every other place in each direction: {two.output[0]}x{two.output[1]} places, \
{np.prod(two.output)} instead
of {np.prod(one.output)}, and no pixel is used more than {rarely.max()} times.

![How often a stride of 2 uses each pixel](tour/stride-2.png)

In general `floor((input - filter + 2 * padding) / stride + 1)`. A stride of 3 would leave pixels at the end unused: \
by default
that is allowed, but `strict=True` refuses it and says what would fit.

{refusal}

For a filter of 2x2 on 3x3 pixels the counts are `{grid(small)}`.

    gpucnn show pixel-use --input 7 --kernel 3 --stride 2
"""


def padding(folder: Path | None) -> str:
    """Padding."""
    bare, padded = window((7, 7), 3), window((7, 7), 3, padding=1)
    use = show.pixel_use(padded, at(folder, "padding"))
    large = window((32, 32), 5, padding=2)
    return f"""## Padding

Without padding the map is smaller than the image, {bare.output[0]}x{bare.output[1]} of 7x7, and the pixels at the \
border count for less. A border of
zeros around the image mends both: with a padding of 1 the map is {padded.output[0]}x{padded.output[1]} again, and a \
corner is used {use.min()} times, not once.

![How often each pixel is used with a padding of 1](tour/padding.png)

A filter of 5x5 needs a padding of 2 to keep an image's size: 32x32 stays {large.output[0]}x{large.output[1]}.

    gpucnn show pixel-use --input 7 --kernel 3 --padding 1
"""


def pooling(folder: Path | None) -> str:
    """Pooling."""
    image = np.array(BLOCKS, np.float32)[None, None]
    largest = functional.max_pool(image, 2)[0, 0]
    mean = functional.avg_pool(image, 2)[0, 0]
    if folder is not None:
        draw_pooling(image[0, 0], largest, mean, folder / "pooling.png")
    return f"""## Pooling

What matters is often that a pattern is there, not on which pixel. Pooling keeps one number of each block: here blocks \
of
2x2 with a stride of 2, as is usual. The largest of each block are {grid(largest.astype(int))}, the means \
{grid(mean.astype(int))}.

![A map of 4x4, its largest values and its means in blocks of 2x2](tour/pooling.png)

The map has a quarter of the pixels afterwards, and a pattern that moves by a pixel often leaves it unchanged. Pooling \
has
nothing to learn.
"""


def draw_pooling(image: np.ndarray, largest: np.ndarray, mean: np.ndarray, path: Path) -> None:
    """A map in coloured blocks and what pooling makes of it."""
    from matplotlib.colors import ListedColormap

    block = np.kron([[0, 1], [2, 3]], np.ones((2, 2)))
    colours = ListedColormap(["#cfe3f1", "#fbe3b5", "#c5e6da", "#f2d9e6"])
    figure = figures.new_figure(8.2, 3.3)
    panels = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    titles = ("a map of 4x4 in blocks of 2x2", "the largest of each", "the mean of each")
    for axes, values, title in zip(panels, (image, largest, mean), titles):
        kinds = block if values.shape == (4, 4) else block[::2, ::2]
        drawn = axes.imshow(kinds, cmap=colours, vmin=0, vmax=3, interpolation="nearest")
        for (row, column), value in np.ndenumerate(values):
            winner = values is image and value == largest[row // 2, column // 2]
            axes.text(
                column,
                row,
                figures.number(value),
                ha="center",
                va="center",
                fontsize=14,
                weight="bold" if winner or values is largest else "normal",
            )
        axes.set_title(title, fontsize=10)
        axes.set_xticks(np.arange(0.5, len(values) - 1), [])
        axes.set_yticks(np.arange(0.5, len(values) - 1), [])
        axes.grid(color="white", linewidth=2)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        drawn.set_zorder(0)
    figures.save(figure, path)


def network(folder: Path | None) -> str:
    """LeNet-5, layer by layer."""
    model = lenet5((1, 32, 32), 10)
    table = summary(model)
    dense = next(row for row in table.rows if row.kind == "Conv2d")
    indented = "\n".join(f"    {line}" for line in str(table).splitlines())
    return f"""## A network

LeNet-5 is these parts in a row: filters whose weights are learned, a ReLU that sets scores below zero to zero, pooling,
and the same again on the maps that come out; then layers in which every number sees every other, and ten numbers at the
end, one a digit.

{indented}

It has {model.parameter_count:,} weights and biases. Sharing a filter over all places saves most: the first layer has \
{dense.parameters} of them, and if
each of its outputs had its own weight for each pixel it would have {dense.dense_weights:,}.

    gpucnn summary
"""


class Learned:
    """LeNet-5 trained on the digits, and what it says of the test images."""

    def __init__(self):
        self.train, self.test = data.load("digits")
        self.model = lenet5((1, 32, 32), 10)
        self.model.class_names = self.train.classes
        trainer = gpucnn.Trainer(
            self.model,
            backend="numba",
            optimizer=AdamW(lr=0.002, weight_decay=0.5),
            schedule=Cosine(),
            seed=0,
            shift=4,
            progress=False,
        )
        self.history = trainer.fit(self.train.images, self.train.labels, epochs=20)
        self.probabilities = trainer.predict(self.test.images)


def learning(folder: Path | None, learned: Learned) -> str:
    """Training and its curves, confusion and mistakes."""
    test, said = learned.test, learned.probabilities.argmax(axis=1)
    if folder is not None:
        show.curves(learned.history, folder / "curves.png")
    counts = show.confusion(test.labels, said, test.classes, at(folder, "confusion"))
    worst = show.mistakes(test.images, test.labels, learned.probabilities, test.classes, at(folder, "mistakes"))
    first, last, epochs = learned.history["accuracy"][0], learned.history["accuracy"][-1], len(learned.history)
    return f"""## It learns

All weights start at random. Training shows the network {len(learned.train.images):,} handwritten digits, 64 at a \
time, each moved at random by
up to 4 pixels, and after each step moves every weight a little to where the mistakes get smaller. In the first time \
through
all of them it is right about {first:.1%} of the images, in the {epochs}th about {last:.1%}.

![Loss and accuracy over {epochs} epochs](tour/curves.png)

What counts are digits that it has never seen. Of {len(test.images)} it is right about {int(counts.trace())}, which is \
{counts.trace() / len(test.images):.2%}:

![What the digits are and what the network says](tour/confusion.png)

{mistaken(worst)}

![The mistakes](tour/mistakes.png)

    gpucnn train --shift 4 --epochs {epochs}
    gpucnn show curves
    gpucnn show confusion
    gpucnn show mistakes
"""


def mistaken(worst: list[show.Mistake]) -> str:
    """The mistakes in a sentence."""
    if not worst:
        return "It makes no mistake."
    first = worst[0]
    return (
        f"The mistake that it is surest of is image {first.image}: a {first.true} that it calls a {first.predicted}, "
        f"with a probability of {first.probability:.1%}."
    )


def inside(folder: Path | None, learned: Learned) -> str:
    """Filters and feature maps."""
    model, test, number = learned.model, learned.test, 3
    weights = show.filters(model, at(folder, "filters"))
    name = f"test image {number}: {test.classes[test.labels[number]]}"
    found, chances = show.maps(model, test.images[number], at(folder, "maps"), backend="numba", name=name)
    sizes = [figures.shape(step.values.shape) for step in found]
    best = int(chances.argmax())
    return f"""## What it has learned

Nobody has told it which patterns to look for. These are the {len(weights)} filters that the first layer has found; \
red weights are
for ink, blue ones against it.

![The filters of the first layer](tour/filters.png)

And this is what each layer makes of one digit. The first maps still look like it: strokes, edges, their directions. \
Each
next layer sees a larger part of the image and says less about where and more about what, from {sizes[1]} to {sizes[-1]}
numbers. Softmax makes probabilities of the last ten: it says {model.class_names[best]}, with {chances[best]:.1%}. It \
is a {test.classes[test.labels[number]]}.

![What each layer makes of a digit](tour/maps.png)

    gpucnn show filters
    gpucnn show maps {number}
"""


def page(folder: Path | None, learned: Learned) -> str:
    """The network slides over a page."""
    model, test = learned.model, learned.test
    values, places = show.digit_page(test.images)
    result = show.scores(model, values, at(folder, "scores"), backend="numba")
    right = 0
    for (top, left), label in zip(places, test.labels):
        near = [s for s in result.found if max(abs(s.box[0] - top), abs(s.box[1] - left)) <= 8]
        right += any(sighting.label == test.classes[label] for sighting in near)
    p, q = result.window.output
    return f"""## A page of digits

A layer that sees all pixels is a convolution whose filter is as large as the image. So the whole trained network is a
filter too, of 32x32 pixels, and can slide over a page: it has {p}x{q} places on this one, {result.window.stride[0]} \
pixels apart, and says at each how
sure it is of each digit.

![A page of digits and what the network sees where](tour/scores.png)

The boxes are the places of which it is surest, none overlapping another. It finds {right} of the {len(places)} \
digits, to within 8 pixels. The
other boxes are mistakes of a kind: it has never seen anything but whole digits, so the lower half of one and the upper
half of the next must be one to it too.

    gpucnn show scores
"""


def bits(folder: Path | None, learned: Learned) -> str:
    """The same hash on two backends."""
    hashes = {}
    start, epochs = learned.model.weights_sha256()[:16], len(learned.history)
    for backend, math in (("numpy", "exact"), ("numba", "exact")):
        model = lenet5((1, 32, 32), 10)
        trainer = gpucnn.Trainer(model, backend=backend, math=math, seed=0, shift=2, progress=False)
        trainer.fit(learned.train.images, learned.train.labels, epochs=1)
        hashes[backend] = model.weights_sha256()
    same = "They are the same, to the last bit." if len(set(hashes.values())) == 1 else "They differ."
    return f"""## The same bits everywhere

Computers round, and the order of additions decides how. Here it is fixed: whichever backend computes, with however many
threads, the weights after training are the same. This is the SHA-256 of all weights after one epoch, once computed by \
the
plain specification in NumPy and once by compiled vector kernels:

    numpy  {hashes["numpy"]}
    numba  {hashes["numba"]}

{same} The network above, after {epochs} epochs, has the hash {start}... on any machine, and a GPU
is held to the same bits.

    gpucnn check
"""


QUICK = (pattern, stride, padding, pooling, network)
TRAINED = (learning, inside, page, bits)

HEAD = """# A tour: from one filter to a network that reads

Every picture and number on this page is made by [tour.py](tour.py), which takes about a minute; a test compares them.
Each step ends with the command that makes such a picture of your own. To do it by hand instead, with your own images \
and drawings, open the page that [explore.md](explore.md) walks through: `gpucnn explore`.
"""


def lines(text: str) -> str:
    """The text with its paragraphs broken into lines of up to 120 characters."""
    parts = text.strip().split("\n\n")
    return "\n\n".join(p if p.startswith(("    ", "#", "!")) else textwrap.fill(p, 120) for p in parts) + "\n"


def shrink(picture: Path) -> None:
    """Keep 256 colours of a picture: a third of the size, and no difference to the eye."""
    from PIL import Image

    with Image.open(picture) as opened:
        small = opened.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


def main() -> None:
    """Write tour.md and its pictures."""
    folder = HERE / "tour"
    folder.mkdir(exist_ok=True)
    parts = [HEAD, *(step(folder) for step in QUICK)]
    print("training LeNet-5", file=sys.stderr)
    learned = Learned()
    parts += [step(folder, learned) for step in TRAINED]
    for picture in folder.glob("*.png"):
        shrink(picture)
    (HERE / "tour.md").write_text("\n".join(map(lines, parts)), encoding="utf-8")


if __name__ == "__main__":
    main()
