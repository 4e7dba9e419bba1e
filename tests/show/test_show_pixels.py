"""How often each pixel is used, counted by walking every window."""

import numpy as np
import pytest

from gpucnn import show
from gpucnn.errors import ConfigurationError, ShapeError
from gpucnn.geometry import window

WINDOWS = [
    window((3, 3), 2),
    window((7, 7), 3, stride=2, padding=1),
    window((7, 10), (2, 3), stride=3, padding=((0, 1), (2, 0))),
    window((32, 32), 5, stride=2),
    window((10,), 3, stride=2),
    window((1, 1), 1),
    window((9, 4), (3, 2), dilation=(2, 1)),
    window((40, 5), 3, padding="same"),
    window((1,), 1),
    window((6, 6), 1, stride=4),
    window((5, 5), 3, padding=2),
]


def counted(fit):
    """The counts of all windows, pixel by pixel."""
    use = np.zeros(fit.input, int)
    for place in np.ndindex(fit.output):
        for tap in np.ndindex(fit.kernel):
            axes = zip(place, tap, fit.stride, fit.dilation, fit.padding)
            pixel = tuple(p * s + t * d - before for p, t, s, d, (before, _) in axes)
            if all(0 <= i < size for i, size in zip(pixel, fit.input)):
                use[pixel] += 1
    return use


@pytest.mark.parametrize("fit", WINDOWS, ids=[f"{w.input}-{w.kernel}-{w.stride}" for w in WINDOWS])
def test_counts_and_pictures(drawn, tmp_path, fit):
    use = show.pixel_use(fit, tmp_path / "p.png")
    assert use.tolist() == counted(fit).tolist()
    drawn.check(tmp_path / "p.png")
    if max(use.shape) <= 24:
        cells = [text.get_text() for text in drawn.figure.axes[0].texts]
        assert cells == [str(count) for count in use.ravel()]


def test_refusals(tmp_path):
    with pytest.raises(ConfigurationError, match="window is .* of type tuple; give what gpucnn.geometry"):
        show.pixel_use((7, 7))
    with pytest.raises(ShapeError, match="3 axes"):
        show.pixel_use(window((3, 3, 3), 2), tmp_path / "p.png")
    with pytest.raises(ConfigurationError, match="must end in .png"):
        show.pixel_use(window((3, 3), 2), tmp_path / "p.txt")
    assert not list(tmp_path.iterdir())
