"""Convex solids in perspective on a Pillow canvas: flat faces, shaded by their normals.

x points to the front of what is drawn, y to its left, z up; angles are in radians. Nothing is sorted here: the drawing
goes from far to near.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from data_pipelines.images.drawn.pen import Colour

Floats = npt.NDArray[np.float64]
"""A point or direction [3], or the corners [n, 3] of a flat face, in turn."""

AMBIENT = 0.55
"""Brightness of a face that the light does not reach; 1 where it falls straight on it."""
_LIGHT = np.array([0.60, -0.45, 0.66])
"""Towards the light, as the camera sees it: behind it, to its left and above."""


@dataclass(frozen=True)
class Camera:
    """Looks at the point `height` above the origin from `distance` away."""

    azimuth: float
    """Where it stands, seen from above: 0 in front, then towards the left of what is drawn."""
    elevation: float
    """Above the horizon."""
    distance: float
    height: float
    reach: float
    """Half of the picture's side, at the point that it looks at."""

    @property
    def axes(self) -> Floats:
        """[3, 3], rows: towards the camera, to the right and up in the picture."""
        cos, sin = np.cos(self.azimuth), np.sin(self.azimuth)
        low, high = np.cos(self.elevation), np.sin(self.elevation)
        return np.array([[cos * low, sin * low, high], [-sin, cos, 0.0], [-cos * high, -sin * high, low]])


class Scene:
    """Draws on an RGB image what a camera sees."""

    def __init__(self, image: Image.Image, camera: Camera) -> None:
        self._draw = ImageDraw.Draw(image)
        self._half = image.width / 2
        self._camera = camera
        self._axes = camera.axes
        self._middle = np.array([0.0, 0.0, camera.height])
        self._place = self._middle + camera.distance * self._axes[0]
        self._light = _LIGHT @ self._axes / np.linalg.norm(_LIGHT)

    def distance(self, point: Floats) -> float:
        """Of the camera from a point."""
        return float(np.linalg.norm(self._place - point))

    def sees(self, points: Floats, normal: Floats) -> bool:
        """Whether the camera is in front of a face, where its normal points to."""
        return float((self._place - points[0]) @ normal) > 0

    def face(self, points: Floats, normal: Floats, colour: Colour, glow: float = 0.0) -> None:
        """A flat face with its outward normal of length 1, unless it is seen from behind. `glow`: the share of its
        brightness, from 0 to 1, that does not depend on the light."""
        if self.sees(points, normal):
            lit = AMBIENT + (1 - AMBIENT) * max(0.0, float(self._light @ normal))
            self._fill(self._pixels(points), colour, glow + (1 - glow) * lit)

    def hull(self, points: Floats, colour: Colour) -> None:
        """The silhouette of the convex solid with these corners, without shading."""
        outline = cv2.convexHull(self._pixels(points).astype(np.float32))
        self._fill(outline.reshape(-1, 2).astype(np.float64), colour, 1.0)

    def _fill(self, pixels: Floats, colour: Colour, brightness: float) -> None:
        red, green, blue = (round(part * brightness) for part in colour)
        self._draw.polygon([(float(x), float(y)) for x, y in pixels], fill=(red, green, blue))

    def _pixels(self, points: Floats) -> Floats:
        """[n, 2], x to the right and y down."""
        seen = (points - self._middle) @ self._axes.T
        scale = self._half / self._camera.reach * self._camera.distance / (self._camera.distance - seen[:, :1])
        return self._half + seen[:, 1:] * (1.0, -1.0) * scale


class Extrusion:
    """A convex profile in the plane of x and z, as wide on both sides as its height says.

    Side s is 1 on the left and -1 on the right.
    """

    def __init__(self, profile: Floats, foot: tuple[float, float], top: tuple[float, float]) -> None:
        """`profile` [n, 2]: corners (x, z), with the inside to the left of each edge when x points right and z up.
        `foot` and `top`: two heights, and half of the width at each; linear between and beyond them."""
        self.profile = profile
        self._slope = (top[1] - foot[1]) / (top[0] - foot[0])
        self._start = foot[1] - self._slope * foot[0]

    def on_side(self, side: int, flat: Floats) -> Floats:
        """Points (x, z) [n, 2] on a side."""
        return np.stack([flat[:, 0], side * (self._start + self._slope * flat[:, 1]), flat[:, 1]], axis=1)

    def side_normal(self, side: int) -> Floats:
        normal = np.array([0.0, side, -self._slope])
        return normal / np.linalg.norm(normal)

    def on_edge(self, edge: int, across: tuple[float, float], along: tuple[float, float]) -> Floats:
        """The part of the face at an edge of the profile: `across` from -1 (right) to 1 (left), `along` from 0 to 1
        in the profile's direction."""
        ends = self.profile[[edge, (edge + 1) % len(self.profile)]]
        flat = ends[0] + np.array(along)[:, None] * (ends[1] - ends[0])
        left = self.on_side(1, flat)
        (low, high), wide = left * (1.0, 0.0, 1.0), left * (0.0, 1.0, 0.0)
        return np.stack(
            [
                low + across[0] * wide[0],
                low + across[1] * wide[0],
                high + across[1] * wide[1],
                high + across[0] * wide[1],
            ]
        )

    def edge_normal(self, edge: int) -> Floats:
        step = self.profile[(edge + 1) % len(self.profile)] - self.profile[edge]
        return np.array([step[1], 0.0, -step[0]]) / np.linalg.norm(step)

    def draw(self, scene: Scene, colour: Colour, edges: dict[int, Colour] | None = None) -> None:
        """All faces; `edges`: other colours for those at some edges."""
        for edge in range(len(self.profile)):
            shown = (edges or {}).get(edge, colour)
            scene.face(self.on_edge(edge, (-1.0, 1.0), (0.0, 1.0)), self.edge_normal(edge), shown)
        for side in (-1, 1):
            scene.face(self.on_side(side, self.profile), self.side_normal(side), colour)
