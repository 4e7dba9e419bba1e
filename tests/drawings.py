"""Digits as people send them to a network: photos of pens on paper, and print.

Nothing is taken from a data set. Strokes are polygons and arcs written down here, fonts come with Matplotlib. Each
picture has its own size, place, thickness, slant and rotation, and many are lit unevenly, with noise, as a photo is.
"""

import itertools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSans-Bold.ttf", "STIXGeneral.ttf", "cmr10.ttf", "cmss10.ttf")
SIZES = ((180, 240), (300, 300), (96, 64), (640, 480), (420, 260), (48, 48))  # width, height
INKS = ((20, 20, 24), (30, 40, 130), (60, 60, 60), (140, 25, 30), (0, 0, 0))


def arc(x: float, y: float, w: float, h: float, start: float, stop: float) -> list[tuple[float, float]]:
    """Points of an ellipse around (x, y) with half axes w and h; degrees, clockwise from the right, y downwards."""
    turn = np.radians(np.linspace(start, stop, 24))
    return [(x + w * float(np.cos(t)), y + h * float(np.sin(t))) for t in turn]


# Strokes in a box 1 high and about 0.6 wide, (right, down): two ways to write most digits.
STROKES: dict[int, list[list[list[tuple[float, float]]]]] = {
    0: [[arc(0.3, 0.5, 0.28, 0.48, -90, 270)], [arc(0.3, 0.5, 0.22, 0.48, -60, 300)]],
    1: [[[(0.3, 0.0), (0.3, 1.0)]], [[(0.1, 0.22), (0.32, 0.0), (0.3, 1.0)]]],
    2: [
        [[*arc(0.3, 0.27, 0.27, 0.26, -170, 35), (0.05, 0.97), (0.6, 0.97)]],
        [[*arc(0.28, 0.25, 0.25, 0.25, -160, 50), (0.0, 0.95), (0.3, 0.9), (0.58, 0.98)]],
    ],
    3: [
        [[*arc(0.27, 0.25, 0.25, 0.24, -150, 90), *arc(0.27, 0.74, 0.29, 0.25, -90, 150)]],
        [[*arc(0.25, 0.27, 0.24, 0.25, -170, 80), *arc(0.25, 0.73, 0.3, 0.26, -80, 170)]],
    ],
    4: [
        [[(0.15, 0.0), (0.05, 0.55), (0.6, 0.55)], [(0.48, 0.1), (0.44, 1.0)]],
        [[(0.42, 1.0), (0.45, 0.0), (0.0, 0.65), (0.62, 0.65)]],
    ],
    5: [
        [[(0.55, 0.0), (0.12, 0.0), (0.08, 0.42), *arc(0.27, 0.68, 0.29, 0.3, -120, 140)]],
        [[(0.12, 0.03), (0.1, 0.45), *arc(0.25, 0.7, 0.28, 0.28, -110, 150)], [(0.12, 0.03), (0.58, 0.0)]],
    ],
    6: [
        [[(0.45, 0.0), (0.2, 0.25), (0.06, 0.6), *arc(0.3, 0.72, 0.25, 0.26, 180, -180)]],
        [[*arc(0.5, 0.5, 0.45, 0.5, -100, -180), *arc(0.3, 0.7, 0.26, 0.28, 180, -170)]],
    ],
    7: [
        [[(0.0, 0.02), (0.58, 0.0), (0.2, 1.0)]],
        [[(0.02, 0.05), (0.58, 0.03), (0.38, 0.5), (0.3, 1.0)], [(0.15, 0.5), (0.55, 0.48)]],
    ],
    8: [
        [arc(0.3, 0.25, 0.22, 0.24, 90, 450), arc(0.3, 0.74, 0.27, 0.25, -90, 270)],
        [arc(0.32, 0.23, 0.18, 0.22, 90, 450), arc(0.28, 0.72, 0.22, 0.27, -90, 270)],
    ],
    9: [
        [arc(0.28, 0.27, 0.25, 0.26, 0, 360), [(0.53, 0.22), (0.5, 0.6), (0.4, 1.0)]],
        [[*arc(0.28, 0.27, 0.25, 0.26, -30, -390), (0.5, 1.0)]],
    ],
}


def pen(digit: int, way: int, height: int, thickness: float, rng: np.random.Generator) -> Image.Image:
    """Strokes of a pen on a mask, with a hand that is not quite steady."""
    side = int(height * 2)
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    slant, wide = rng.uniform(-0.1, 0.22), rng.uniform(0.85, 1.25)
    radius = max(1.0, thickness * height / 2)
    for stroke in STROKES[digit][way]:
        points = np.array(stroke) * [wide, 1] + rng.normal(0, 0.008, (len(stroke), 2))
        points = np.stack([points[:, 0] + slant * (0.5 - points[:, 1]), points[:, 1]], axis=1) * height + height * 0.5
        dots = [points[0]]
        for a, b in itertools.pairwise(points):
            steps = max(2, int(np.hypot(*(b - a))))
            dots += [a + (b - a) * t for t in np.linspace(0, 1, steps)]
        for x, y in dots:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return mask


def print_of(digit: int, font: str, height: int) -> Image.Image:
    """A digit of a font on a mask."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / font
    mask = Image.new("L", (height * 2, height * 2))
    face = ImageFont.truetype(str(file), int(height * 1.35))
    ImageDraw.Draw(mask).text((height, height), str(digit), font=face, fill=255, anchor="mm")
    return mask


def drawn(count: int = 40, seed: int = 0) -> list[tuple[int, Image.Image]]:
    """(digit, picture) of `count` digits, dark ink on white: one in four is printed, the others written."""
    rng = np.random.default_rng(seed)
    result = []
    for number in range(count):
        digit, kind = number % 10, number // 10 % 4
        width, high = SIZES[number % len(SIZES)]
        height = int(min(width, high) * rng.uniform(0.45, 0.8))
        if kind == 3:
            mask = print_of(digit, FONTS[(number + number // 10) % len(FONTS)], height)
        else:
            mask = pen(digit, kind % 2, height, rng.uniform(0.05, 0.16), rng)
        mask = mask.rotate(rng.uniform(-7, 7), Image.Resampling.BICUBIC)
        mask = mask.crop(mask.getbbox())
        place = [int(rng.uniform(0, max(1, room - size))) for room, size in zip((width, high), mask.size)]
        paper = Image.new("RGB", (width, high), (255, 255, 255))
        paper.paste(INKS[number % len(INKS)], (*place, place[0] + mask.width, place[1] + mask.height), mask)
        if number % 3:
            paper = photo(paper, rng)
        result.append((digit, paper))
    return result


def photo(paper: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The paper as a camera sees it: light falls off towards one side, a little blur, noise."""
    paper = paper.filter(ImageFilter.GaussianBlur(min(paper.size) / 250))
    values = np.asarray(paper, np.float64)
    down, right = np.mgrid[0 : 1 : values.shape[0] * 1j, 0 : 1 : values.shape[1] * 1j]
    turn, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.35)
    light = 1 - depth * (0.5 + 0.5 * (np.cos(turn) * (2 * right - 1) + np.sin(turn) * (2 * down - 1)) / np.sqrt(2))
    values = values * light[..., None] + rng.normal(0, 4, values.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))
