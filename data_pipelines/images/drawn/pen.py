"""Drawing in head units on a Pillow canvas, and the curves that the drawn faces are made of."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = npt.NDArray[np.float64]
"""[n, 2], x to the right and y down."""

CIRCLE = np.linspace(0.0, 2.0 * np.pi, 64, endpoint=False)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` moved by `share` (0 to 1) of the way towards `b`."""
    red, green, blue = (round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return red, green, blue


def points(*pairs: tuple[float, float]) -> Points:
    return np.array(pairs, dtype=np.float64)


def mirrored(half: Points) -> Points:
    """A left-right symmetric line: `half` from the right edge to x = 0, then its mirror image back out."""
    return np.concatenate([half, (half[:-1] * (-1.0, 1.0))[::-1]])


def smooth(corners: Points, per_piece: int = 8) -> Points:
    """The Catmull-Rom curve through `corners`, from the first to the last of them."""
    padded = np.concatenate([2 * corners[:1] - corners[1:2], corners, 2 * corners[-1:] - corners[-2:-1]])
    t = np.linspace(0.0, 1.0, per_piece, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (padded[i : len(padded) - 3 + i, None, :] for i in range(4))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return np.concatenate([curve.reshape(-1, 2), corners[-1:]])


class Pen:
    """Draws on an RGB image in units of half the head's height, through one similarity transform."""

    def __init__(self, image: Image.Image, unit: float, centre: tuple[float, float], roll: float) -> None:
        """`unit` and `centre` in pixels, `roll` in radians."""
        self._draw = ImageDraw.Draw(image)
        self._unit = unit
        self._centre = np.array(centre)
        cos, sin = np.cos(roll), np.sin(roll)
        self._turn = unit * np.array([[cos, sin], [-sin, cos]])

    def _pixels(self, outline: Points) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in outline @ self._turn + self._centre]

    def polygon(self, outline: Points, colour: Colour) -> None:
        self._draw.polygon(self._pixels(outline), fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.polygon(np.stack([x + rx * np.cos(CIRCLE), y + ry * np.sin(CIRCLE)], axis=1), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.ellipse(x, y, radius, radius, colour)

    def stroke(self, line: Points, width: float, colour: Colour) -> None:
        """A line with round joints and ends."""
        pixels = self._pixels(line)
        thick = max(1, round(width * self._unit))
        self._draw.line(pixels, fill=colour, width=thick, joint="curve")
        for x, y in (pixels[0], pixels[-1]):
            r = thick / 2
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def ring(self, outline: Points, width: float, colour: Colour) -> None:
        """A closed line."""
        self.stroke(np.concatenate([outline, outline[:2]]), width, colour)
