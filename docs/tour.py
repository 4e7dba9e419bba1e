"""Makes docs/tour.md with all its numbers, and the pictures in docs/tour/: python docs/tour.py

Takes about a minute on two cores. Each step is a function that draws its pictures into a folder (None: draws nothing)
and returns its part of the text; tests/test_tour.py runs them and compares the text.
"""

import argparse
import sys
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image

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
    """A picture's path."""
    return None if folder is None else folder / f"{name}.png"


def grid(values) -> str:
    """A map of numbers as text."""
    return str(np.asarray(values).tolist())


def pattern(folder: Path | None) -> str:
    """A filter that finds a pattern."""
    matching = [[-1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    different = [[-1, -1, -1], [1, -1, -1], [-1, 1, 1]]
    first = show.match(matching, DIAGONAL, at(folder, "match-small"), backend="numpy", math="exact")
    second = show.match(different, DIAGONAL, backend="numpy", math="exact")
    cross = -np.ones((9, 9))
    for i in range(1, 8):
        cross[i, i] = cross[i, 8 - i] = 1
    best = show.match(cross, DIAGONAL, at(folder, "match"), backend="numpy", math="exact", name="a cross")
    if folder is not None:
        Image.fromarray(np.uint8(255 * (cross > 0))).save(folder / "cross.png")
    agree = int((np.array(different) == np.array(DIAGONAL)).sum())
    highest = [(int(r), int(c)) for r, c in np.argwhere(best.scores == best.score)]
    return f"""## A filter finds a pattern

A filter is a small image of what it looks for. Here white is 1 and black is -1, and the filter is a diagonal stroke:

    filter   {DIAGONAL[0]}
             {DIAGONAL[1]}
             {DIAGONAL[2]}

Lay it on a piece of an image of the same size, multiply each pixel by the weight on top of it, and take the mean of
the nine products. Where pixel and weight agree the product is 1, where they differ it is -1. On this piece, a stroke
with its first pixel missing, eight agree and one does not: the score is 7/9 = {first.score:.4f}.

![Image, filter and score](tour/match-small.png)

On another piece, `{grid(different)}`, only {agree} agree and {9 - agree} do not: 1/9 = {second.score:.4f}. A perfect
match scores 1, its negative -1.

Now slide the filter over a larger image, and record the score at each place. That is a convolution. On a cross of 9x9
pixels the 3x3 filter has {best.scores.shape[0]}x{best.scores.shape[1]} places, and scores {best.score:g} at
{len(highest)} of them: (row, column) {", ".join(map(str, highest))}, along one stroke of the cross except in the
middle, where the two strokes meet and it scores {best.scores[3, 3]:.2f}. On the other stroke, which leans the other
way, it scores {best.scores[1, 5]:.2f}.

![The filter slides over a cross; the map of its scores](tour/match.png)

At each place the page of `gpucnn explore` shows the nine products, their sum and where it goes:

![The same cross by hand: image, filter, products and output](explore/convolution.png)

    gpucnn show match docs/tour/cross.png --signed --pattern "1,-1,-1;-1,1,-1;-1,-1,1"

The pixels of a picture are numbers from 0 to 1; with `--signed` black is -1, as here.
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

With a stride of 1 the filter moves by one pixel at a time. On an image of 7x7 pixels a 3x3 filter has
{one.output[0]}x{one.output[1]} places, and the map of scores has a pixel for each. Windows overlap, so a pixel in the
middle is used {often.max()} times and a corner {often.min()} time.

![How often a stride of 1 uses each pixel](tour/stride-1.png)

With a stride of 2 it skips every other place in each direction: {two.output[0]}x{two.output[1]} places,
{np.prod(two.output)} instead of {np.prod(one.output)}, and no pixel is used more than {rarely.max()} times.

![How often a stride of 2 uses each pixel](tour/stride-2.png)

In general there are `floor((input - filter + 2 * padding) / stride + 1)` places. A stride of 3 would leave pixels at
the end unused: by default that is allowed, but `strict=True` refuses it and says what would fit.

{refusal}

For a 2x2 filter on 3x3 pixels the counts are `{grid(small)}`.

    gpucnn show pixel-use --input 7 --kernel 3 --stride 2
"""


def padding(folder: Path | None) -> str:
    """Padding."""
    bare, padded = window((7, 7), 3), window((7, 7), 3, padding=1)
    use = show.pixel_use(padded, at(folder, "padding"))
    large = window((32, 32), 5, padding=2)
    return f"""## Padding

Without padding the map is smaller than the image, {bare.output[0]}x{bare.output[1]} instead of 7x7, and the pixels at
the border count for less. A border of zeros around the image fixes both: with a padding of 1 the map is
{padded.output[0]}x{padded.output[1]} again, and a corner is used {use.min()} times, not once.

![How often each pixel is used with a padding of 1](tour/padding.png)

A 5x5 filter needs a padding of 2 to keep the image's size: 32x32 stays {large.output[0]}x{large.output[1]}.

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

Often it matters that a pattern occurs, not exactly where. Pooling keeps one number per block, here blocks of 2x2 with
a stride of 2, as is usual. The largest of each block are {grid(largest.astype(int))}, the means
{grid(mean.astype(int))}.

![A map of 4x4, its largest values and its means in blocks of 2x2](tour/pooling.png)

Afterwards the map has a quarter of the pixels, and moving a pattern by a pixel often leaves it unchanged. Pooling has
no weights to learn.
"""


def draw_pooling(image: np.ndarray, largest: np.ndarray, mean: np.ndarray, path: Path) -> None:
    """A map in colored blocks and its pooled maps."""
    from matplotlib.colors import ListedColormap

    block = np.kron([[0, 1], [2, 3]], np.ones((2, 2)))
    colors = ListedColormap(["#cfe3f1", "#fbe3b5", "#c5e6da", "#f2d9e6"])
    figure = figures.new_figure(8.2, 3.3)
    panels = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    titles = ("a map of 4x4 in blocks of 2x2", "the largest of each", "the mean of each")
    for axes, values, title in zip(panels, (image, largest, mean), titles):
        kinds = block if values.shape == (4, 4) else block[::2, ::2]
        drawn = axes.imshow(kinds, cmap=colors, vmin=0, vmax=3, interpolation="nearest")
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
    first = next(row for row in table.rows if row.kind == "Conv2d")
    indented = "\n".join(f"    {line}" for line in str(table).splitlines())
    return f"""## A network

LeNet-5 consists of filters whose weights are learned, a ReLU that sets negative scores to zero, pooling, and the same
again on the resulting maps; then layers in which every output depends on every input, and ten numbers at the end, one
per digit.

{indented}

It has {model.parameter_count:,} weights and biases. Using the same filter at all places saves most: the first layer
has {first.parameters} of them, and if each of its outputs had its own weight for each pixel it would have
{first.dense_weights:,}.

    gpucnn summary
"""


class Learned:
    """LeNet-5 trained on `name`, and its predictions for the test images."""

    def __init__(self, name: str = "digits", shift: int = 4):
        self.train, self.test = data.load(name)
        self.model = lenet5((1, 32, 32), len(self.train.classes))
        self.model.class_names = self.train.classes
        trainer = gpucnn.Trainer(
            self.model,
            backend="numba",
            optimizer=AdamW(lr=0.002, weight_decay=0.5),
            schedule=Cosine(),
            seed=0,
            shift=shift,
            progress=False,
        )
        self.history = trainer.fit(self.train.images, self.train.labels, epochs=20)
        self.probabilities = trainer.predict(self.test.images)


def learning(folder: Path | None, learned: Learned) -> str:
    """Training and its curves, confusion and mistakes."""
    test, predicted = learned.test, learned.probabilities.argmax(axis=1)
    if folder is not None:
        show.curves(learned.history, folder / "curves.png")
    counts = show.confusion(test.labels, predicted, test.classes, at(folder, "confusion"))
    worst = show.mistakes(test.images, test.labels, learned.probabilities, test.classes, at(folder, "mistakes"))
    first, last, epochs = learned.history["accuracy"][0], learned.history["accuracy"][-1], len(learned.history)
    return f"""## It learns

All weights start at random. Training shows the network {len(learned.train.images):,} handwritten digits, 64 at a
time, each moved at random by up to 4 pixels, and after each step changes every weight a little so that the loss gets
smaller. In the first epoch it classifies {first:.1%} of the images correctly, in the {epochs}th {last:.1%}.

![Loss and accuracy over {epochs} epochs](tour/curves.png)

What counts are digits that it has never seen. Of {len(test.images)} it classifies {int(counts.trace())} correctly,
which is {counts.trace() / len(test.images):.2%}:

![True and predicted classes](tour/confusion.png)

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
        f"The most confident mistake is image {first.image}: a {first.true} classified as a {first.predicted}, "
        f"with a probability of {first.probability:.1%}."
    )


def inside(folder: Path | None, learned: Learned) -> str:
    """Filters and feature maps."""
    model, test, number = learned.model, learned.test, 3
    weights = show.filters(model, at(folder, "filters"))
    name = f"test image {number}: {test.classes[test.labels[number]]}"
    layers, probabilities = show.maps(model, test.images[number], at(folder, "maps"), backend="numba", name=name)
    sizes = [figures.shape(step.values.shape) for step in layers]
    best = int(probabilities.argmax())
    return f"""## What it has learned

Nobody specified which patterns to look for. These are the {len(weights)} filters that the first layer has learned;
red weights are for ink, blue ones against it.

![The filters of the first layer](tour/filters.png)

And these are the maps of one digit, layer by layer. The first ones still look like it: strokes, edges, directions.
Each next layer sees a larger part of the image and describes less where and more what it is, from {sizes[1]} to
{sizes[-1]} numbers. Softmax turns the last ten into probabilities: it predicts {model.class_names[best]}, with
{probabilities[best]:.1%}. It is a {test.classes[test.labels[number]]}.

![The maps of a digit in each layer](tour/maps.png)

    gpucnn show filters
    gpucnn show maps {number}
"""


def page(folder: Path | None, learned: Learned) -> str:
    """The network slides over a page."""
    values, places = show.digit_page(learned.test.images)
    whole = show.scores(learned.model, values, backend="numba")
    knowing = Learned("digits+parts", shift=2)
    result = show.scores(knowing.model, values, at(folder, "scores"), backend="numba")
    right, before = (found(scores, places, learned.test) for scores in (result, whole))
    p, q = result.window.output
    return f"""## A page of digits

A dense layer is a convolution whose filter is as large as its input. So the whole trained network is a filter too, of
32x32 pixels, and can slide over a page: it has {p}x{q} places on this one, {result.window.stride[0]} pixels apart,
and gives the probability of each digit at each of them.

The network above finds {before} of the {len(places)} digits, but also {len(whole.found) - before} that are none: it has
never seen anything but whole digits, so it takes the lower half of one and the upper half of the next for a digit too,
and is sure of it. A network has to be trained on what it will meet. This one has seen windows of pages, and an eleventh
class, nothing, for those that show no digit as a whole:

![A page of digits and what the network finds where](tour/scores.png)

The boxes are the places with the highest probabilities, none overlapping another. It finds {right} of the
{len(places)} digits, to within 8 pixels, and {len(result.found) - right} that are none or another.

    gpucnn train --data digits+parts --epochs 20
    gpucnn show scores
"""


def found(scores: show.Scores, places: list[tuple[int, int]], test: data.Dataset) -> int:
    """How many of the digits at `places` are found where they are, to within 8 pixels, as what they are."""
    return sum(
        any(
            max(abs(sighting.box[0] - top), abs(sighting.box[1] - left)) <= 8 and sighting.label == test.classes[label]
            for sighting in scores.found
        )
        for (top, left), label in zip(places, test.labels)
    )


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

Computers round, and the order of additions decides how. Here it is fixed: on any backend, with any number of threads,
the weights after training are the same. This is the SHA-256 of all weights after one epoch, computed by the plain
specification in NumPy and by compiled vector kernels:

    numpy  {hashes["numpy"]}
    numba  {hashes["numba"]}

{same} The network above, after {epochs} epochs, has the hash {start}... on any machine, and a GPU is held to the same
bits.

What another order would do, the page of `gpucnn explore` shows: one rule broken, and the first bit that differs.

![The first bit that differs after another order of summation](explore/bits.png)

    gpucnn check
"""


QUICK = (pattern, stride, padding, pooling, network)
TRAINED = (learning, inside, page, bits)

HEAD = """# A tour: from one filter to a network that reads

[tour.py](tour.py) makes every picture and number on this page in about a minute; a test compares the text. Each step
ends with the command for your own pictures. To do it by hand instead, with your own images and drawings, open the page
that [explore.md](explore.md) walks through: `gpucnn explore`.
"""


def lines(text: str) -> str:
    """The text with its paragraphs wrapped to 120 characters."""
    parts = text.strip().split("\n\n")
    return "\n\n".join(p if p.startswith(("    ", "#", "!")) else textwrap.fill(p, 120) for p in parts) + "\n"


def shrink(picture: Path) -> None:
    """Reduce a picture to 256 colors: a third of the size, and no visible difference."""
    with Image.open(picture) as opened:
        small = opened.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


def main() -> None:
    """Write tour.md and its pictures."""
    argparse.ArgumentParser(description="Rewrite docs/tour.md and the pictures in docs/tour/.").parse_args()
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
