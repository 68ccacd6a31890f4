"""Flat avatar faces: a stand-in for photographs that any machine can compute.

At 32 px expression, glasses, beard and hat are still legible; at 16 px hair, skin and beard.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_pipelines.images.drawn.hair import angle_at, draw_behind, draw_front, head_outline
from data_pipelines.images.drawn.pen import CIRCLE, Colour, Pen, Points, mirrored, mix, points, smooth
from data_pipelines.images.drawn.traits import BROWN, WHITE, Traits, draw_traits

SIZE = 128
OVERSAMPLING = 4
CANVAS = SIZE * OVERSAMPLING

EYES = 0.36
"""Distance of each eye from the middle."""
MOUTH = 0.52
"""Height of the mouth."""
DARK: Colour = (40, 30, 34)
ROSE: Colour = (232, 96, 96)
LIP: Colour = (196, 66, 80)
INSIDE: Colour = (112, 34, 44)


def draw_face(seed: int, index: int) -> npt.NDArray[np.uint8]:
    """Face number `index` of the set `seed`: uint8 [128, 128, 3], RGB, a pure function of its arguments."""
    key = np.array([seed, index], dtype=np.uint64)
    return paint(draw_traits(np.random.Generator(np.random.Philox(key=key))))


def name_faces(count: int) -> Callable[[int], str]:
    """Names of the first `count` faces: `00000`."""
    digits = max(5, len(str(count - 1)))
    return lambda index: f"{index:0{digits}d}"


def paint(face: Traits) -> npt.NDArray[np.uint8]:
    image = _background(face)
    x, y = face.centre
    pen = Pen(image, face.unit * CANVAS, (x * CANVAS, y * CANVAS), face.roll)
    draw_behind(pen, face)
    _shoulders(pen, face)
    _head(pen, face)
    if face.beard != "none":
        _beard(pen, face)
    if face.blush:
        for side in (-1.0, 1.0):
            pen.ellipse(0.56 * side * face.half_width / 0.8 + face.yaw, 0.29, 0.14, 0.10, mix(face.skin, ROSE, 0.28))
    _eyes(pen, face)
    _brows(pen, face)
    _nose(pen, face)
    _mouth(pen, face)
    draw_front(pen, face)
    if face.glasses != "none":
        _glasses(pen, face)
    return np.asarray(image.reduce(OVERSAMPLING), dtype=np.uint8)


def _background(face: Traits) -> Image.Image:
    """The pastel, lightened by up to 22% towards the top."""
    white = np.linspace(0.22, 0.0, CANVAS)[:, None]
    rows = np.array(face.background) * (1 - white) + 255.0 * white
    column = Image.fromarray(np.rint(rows).astype(np.uint8)[:, None, :])
    return column.resize((CANVAS, CANVAS), Image.Resampling.NEAREST)


def _shoulders(pen: Pen, face: Traits) -> None:
    half = points((1.35, 1.75), (1.24, 1.38), (0.95, 1.16), (0.40, 1.04), (0.0, 1.04))
    pen.polygon(mirrored(half), face.shirt)
    v = points((0.46, 1.03), (0.0, 1.34 if face.hair_jitter[10] < -0.2 else 1.12), (-0.46, 1.03))
    if face.hair_jitter[10] < -0.2:  # 40% wear a V
        pen.polygon(v, face.skin_shade)
    neck = points((0.34, 0.60), (0.34, 1.02), (0.40, 1.06))
    bottom = smooth(points((0.40, 1.06), (0.0, 1.16), (-0.40, 1.06)))
    pen.polygon(np.concatenate([neck, bottom, neck[::-1] * (-1.0, 1.0)]), face.skin_shade)


def _head(pen: Pen, face: Traits) -> None:
    for side in (-1.0, 1.0):
        x = side * (face.half_width + 0.01)
        pen.ellipse(x, 0.08, 0.15, 0.18, face.skin)
        pen.ellipse(x + 0.02 * side, 0.09, 0.075, 0.10, mix(face.skin, BROWN, 0.2))
    pen.polygon(head_outline(face), face.skin)


def _beard(pen: Pen, face: Traits) -> None:
    colour = mix(face.hair_colour, DARK, 0.10)
    x = 0.7 * face.yaw
    lobes = smooth(
        points((0.0, 0.335), (0.12, 0.315), (0.28, 0.37), (0.36, 0.47), (0.22, 0.45), (0.08, 0.43), (0.0, 0.43))
    )
    moustache = np.concatenate([lobes, lobes[::-1] * (-1.0, 1.0)]) + (x, 0.0)
    if face.beard == "full":
        chin = head_outline(face, 1.03, np.linspace(angle_at(0.02), np.pi - angle_at(0.02), 40))
        edge = points((0.93, 0.04), (0.88, 0.28), (0.70, 0.43), (0.36, 0.35), (0.0, 0.34))
        edge = smooth(mirrored(edge * (face.half_width, 1.0)))
        pen.polygon(np.concatenate([chin, edge[::-1]]), colour)
    elif face.beard == "goatee":
        pen.polygon(moustache, colour)
        half = points((0.0, 0.66), (0.14, 0.68), (0.27, 0.60), (0.32, 0.74), (0.24, 0.93), (0.0, 1.03))
        outline = smooth(half)
        pen.polygon(np.concatenate([outline, outline[::-1] * (-1.0, 1.0)]) + (0.5 * x, 0.0), colour)
    else:
        pen.polygon(moustache, colour)


def _eyes(pen: Pen, face: Traits) -> None:
    r = face.eye
    for side in (-1.0, 1.0):
        x, y = side * EYES + face.yaw, 0.0
        pen.disc(x, y, r, WHITE)
        ix, iy = x + r * face.gaze[0], y + r * face.gaze[1]
        pen.disc(ix, iy, 0.68 * r, face.iris)
        pen.disc(ix, iy, 0.40 * r, DARK)
        pen.disc(ix - 0.24 * r, iy - 0.26 * r, 0.20 * r, WHITE)
        if face.lashes:
            turn = np.linspace(1.08 * np.pi, 1.92 * np.pi, 16)
            pen.stroke(np.stack([x + 1.04 * r * np.cos(turn), y + 1.04 * r * np.sin(turn)], axis=1), 0.045, DARK)
            tip = points((x + side * 1.00 * r, y - 0.28 * r), (x + side * 1.34 * r, y - 0.58 * r))
            pen.stroke(tip, 0.035, DARK)


def _brows(pen: Pen, face: Traits) -> None:
    colour = mix(face.hair_colour, DARK, 0.35)
    y = -0.29 - 0.4 * (face.eye - 0.165) - face.brow_height
    for side in (-1.0, 1.0):
        inner, peak, outer = (face.yaw + side * x for x in (0.20, 0.38, 0.53))
        line = points((inner, y - face.brow_tilt), (peak, y - 0.045), (outer, y + 0.02 + 0.4 * face.brow_tilt))
        pen.stroke(smooth(line, 5), face.brow_width, colour)


def _nose(pen: Pen, face: Traits) -> None:
    x = 1.35 * face.yaw
    shade = mix(face.skin, BROWN, 0.40)
    if face.nose == "dot":
        pen.ellipse(x, 0.22, 0.085, 0.06, shade)
    elif face.nose == "hook":
        side = 1.0 if face.yaw >= 0 else -1.0
        line = points(
            (x + 0.03 * side, 0.02), (x + 0.09 * side, 0.20), (x + 0.03 * side, 0.26), (x - 0.06 * side, 0.25)
        )
        pen.stroke(smooth(line, 5), 0.045, shade)
    else:
        pen.stroke(smooth(points((x - 0.10, 0.20), (x, 0.265), (x + 0.10, 0.20)), 5), 0.045, shade)


def _arc(x: float, y: float, half_width: float, depth: float) -> Points:
    """A parabola that hangs `depth` below y in its middle, from left to right."""
    t = np.linspace(-1.0, 1.0, 17)
    return np.stack([x + half_width * t, y + depth * (1 - t**2)], axis=1)


def _mouth(pen: Pen, face: Traits) -> None:
    x, y, w = face.yaw, MOUTH, face.mouth_width
    line = mix(mix(face.skin, INSIDE, 0.75), DARK, 0.15)
    if face.beard == "full":  # or it would drown in a dark beard
        line = mix(face.skin, LIP, 0.5)
    if face.mouth == "smile":
        pen.stroke(_arc(x, y - 0.04, 0.27 * w, 0.15 * face.mouth_curve), 0.055, line)
    elif face.mouth == "open":
        half, depth = 0.29 * w, 0.29 * face.mouth_curve
        top = _arc(x, y - 0.06, half, 0.03)
        bottom = _arc(x, y - 0.06, half, depth)
        pen.polygon(np.concatenate([top, bottom[::-1]]), INSIDE)
        teeth = np.stack([bottom[:, 0], np.minimum(bottom[:, 1], y + 0.035)], axis=1)
        pen.polygon(np.concatenate([top, teeth[::-1]]), WHITE)
        tongue = _arc(x, y - 0.06 + depth, 0.62 * half, -0.36 * depth)
        floor = np.interp(tongue[:, 0], bottom[:, 0], bottom[:, 1])
        keep = tongue[:, 1] < floor
        lower = np.stack([tongue[:, 0], floor], axis=1)[keep]
        pen.polygon(np.concatenate([tongue[keep], lower[::-1]]), (226, 110, 112))
    elif face.mouth == "flat":
        tilt = 0.03 * face.hair_jitter[11]
        pen.stroke(points((x - 0.20 * w, y + tilt), (x + 0.20 * w, y - tilt)), 0.055, line)
    elif face.mouth == "lips":
        colour = mix(face.skin, LIP, 0.78)
        upper = points((0.0, -0.035), (0.07, -0.065), (0.16, -0.02), (0.23, 0.01))
        upper = smooth(np.concatenate([upper[::-1], (upper[1:] * (-1.0, 1.0))])) * (w, 1.0)
        lower = _arc(0.0, 0.01, 0.23 * w, 0.105)
        pen.polygon(np.concatenate([upper, lower]) + (x, y), colour)
        pen.stroke(_arc(x, y + 0.008, 0.19 * w, 0.022), 0.028, mix(colour, INSIDE, 0.7))
    else:
        pen.ellipse(x, y + 0.02, 0.085 * w, 0.10, INSIDE)


def _glasses(pen: Pen, face: Traits) -> None:
    r = 0.27
    for side in (-1.0, 1.0):
        x = side * EYES + face.yaw
        if face.glasses == "round":
            rim = np.stack([x + r * np.cos(CIRCLE), 0.02 + r * np.sin(CIRCLE)], axis=1)
        else:
            turn = np.sign(np.cos(CIRCLE)) * np.abs(np.cos(CIRCLE)) ** 0.4
            rise = np.sign(np.sin(CIRCLE)) * np.abs(np.sin(CIRCLE)) ** 0.4
            rim = np.stack([x + 0.275 * turn, 0.02 + 0.22 * rise], axis=1)
        pen.ring(rim, 0.055, face.frame)
        pen.stroke(points((x + side * r, -0.03), (side * (face.half_width + 0.02), -0.06)), 0.05, face.frame)
    pen.stroke(_arc(face.yaw, -0.01, EYES - r, -0.05), 0.05, face.frame)
