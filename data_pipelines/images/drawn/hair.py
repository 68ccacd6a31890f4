"""Hair of the drawn faces: what hangs behind the head, and what lies over its front.

Front hair is the head's outline, scaled and cut off at the sides, closed by a hairline that runs from the
right edge to the left one. Hairlines are written for a head of half width 1 and stretched to the face's.
"""

import numpy as np

from data_pipelines.images.drawn.pen import CIRCLE, Colour, Pen, Points, mirrored, mix, points, smooth
from data_pipelines.images.drawn.traits import WHITE, Traits

EXPONENT = 0.88
"""Of the head's superellipse; below 1 is squarer than an ellipse."""
BLACK: Colour = (0, 0, 0)


def superellipse(rx: float, ry: float, angles: Points = CIRCLE, y: float = 0.0) -> Points:
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack(
        [rx * np.sign(cos) * np.abs(cos) ** EXPONENT, y + ry * np.sign(sin) * np.abs(sin) ** EXPONENT], axis=1
    )


def head_outline(face: Traits, scale: float = 1.0, angles: Points = CIRCLE) -> Points:
    """[n, 2]; angle 0 is the right edge, pi/2 the chin."""
    outline = superellipse(face.half_width, 1.0, angles)
    below = np.maximum(outline[:, 1], 0.0)
    outline[:, 0] *= 1.0 - face.jaw * below**2
    return outline * scale


def angle_at(y: float) -> float:
    """The angle at which the right edge of `head_outline` reaches height y."""
    return float(np.sign(y) * np.arcsin(min(abs(y), 1.0) ** (1.0 / EXPONENT)))


def over_the_top(face: Traits, scale: float, y: float) -> Points:
    """The scaled outline from its left edge at height y over the top to its right edge at the same height."""
    edge = angle_at(y / scale)
    return head_outline(face, scale, np.linspace(np.pi - edge, 2 * np.pi + edge, 48))


def cap(face: Traits, y: float, hairline: Points, scale: float | None = None) -> Points:
    """Front hair down to height y at the sides, with `hairline` from right to left, x in half widths."""
    return np.concatenate([over_the_top(face, scale or face.hair_scale, y), hairline * (face.half_width, 1.0)])


def draw_behind(pen: Pen, face: Traits) -> None:
    colour = mix(face.hair_colour, BLACK, 0.18)
    a = face.half_width
    if face.hair == "long":
        top = superellipse(a + 0.20, 1.10, np.linspace(np.pi, 2 * np.pi, 40))
        fall = smooth(points((a + 0.20, 0.0), (a + 0.25, 0.55), (a + 0.29, 1.05), (a + 0.20, 1.50)))
        pen.polygon(np.concatenate([top, fall, fall[::-1] * (-1.0, 1.0)]), colour)
    elif face.hair == "bob":
        pen.polygon(superellipse(a + 0.20, 0.98, y=-0.08), colour)
        side = smooth(points((a + 0.20, -0.1), (a + 0.24, 0.35), (a + 0.20, 0.72), (a - 0.06, 0.84)))
        pen.polygon(np.concatenate([side, side[::-1] * (-1.0, 1.0)]), colour)
    elif face.hair == "parted":
        pen.polygon(superellipse(a + 0.20, 0.95, y=-0.12), colour)
    elif face.hair == "afro":
        pen.polygon(superellipse(a + 0.36, 1.08, y=-0.22), colour)
    elif face.hair == "bun":
        pen.disc(0.0, -1.10, 0.27, colour)
    elif face.hair == "curly":
        for i, angle in enumerate(np.linspace(np.pi * 0.90, np.pi * 2.10, 11)):
            r = 0.26 + 0.02 * face.hair_jitter[i]
            pen.disc((a + 0.05) * np.cos(angle), 0.94 * np.sin(angle) - 0.04, r, colour)


def _scalloped(low: float, bangs: int) -> Points:
    """A fringe's lower edge from right to left: `bangs` rounded tips on a shallow arch."""
    x = np.linspace(0.84, -0.84, 10 * bangs + 1)
    tips = np.abs(np.sin(np.pi * bangs * (x / 1.68 + 0.5)))
    return np.stack([x, low + 0.10 * x**2 - 0.07 * (1.0 - tips)], axis=1)


def _sided(line: Points, side: int) -> Points:
    """`line`, which runs from right to left, as it is or mirrored and still from right to left."""
    return line if side > 0 else line[::-1] * (-1.0, 1.0)


def _swept(face: Traits, part: tuple[float, float], ends: float) -> Points:
    """The hairline of a parting at `part`: a short side and a long sweep, down to height `ends`."""
    x, y = part
    short = smooth(points((0.98, ends), (0.90, -0.22), (x + 0.24, y + 0.24), part))
    sweep = smooth(points(part, (x - 0.30, y + 0.20), (-0.45, -0.42), (-0.86, -0.16), (-0.98, ends)))
    return _sided(np.concatenate([short, sweep]), face.side)


def _short(face: Traits, top: float = -0.66, side: float = 0.03) -> Points:
    lift = 0.04 * face.hair_jitter[0]
    return smooth(
        mirrored(points((0.99, side), (0.87, -0.14), (0.80, -0.40 + lift), (0.46, top + 0.05 + lift), (0.0, top)))
    )


def _spiked(face: Traits) -> Points:
    """The upper outline of spikes, from left to right."""
    count = 8
    angles = np.linspace(np.pi - 0.02, 2 * np.pi + 0.02, 2 * count + 1)
    outline = head_outline(face, 1.04, angles)
    tips = 1.17 + 0.05 * np.array(face.hair_jitter[:count])
    outline[1::2] *= tips[:, None]
    return outline


def _draw_beanie(pen: Pen, face: Traits) -> None:
    scale = face.hair_scale + 0.02
    band = mix(face.hat, WHITE, 0.28)
    pen.disc(0.0, -1.20, 0.17, mix(face.hat, WHITE, 0.6))
    pen.polygon(cap(face, -0.40, smooth(points((1.0, -0.40), (0.0, -0.50), (-1.0, -0.40))), scale), face.hat)
    lower = smooth(points((1.08, -0.30), (0.55, -0.37), (0.0, -0.395), (-0.55, -0.37), (-1.08, -0.30)))
    lower *= (face.half_width * 1.02, 1.0)
    upper = lower * (0.97, 1.0) + (0.0, -0.27)
    pen.polygon(np.concatenate([lower, upper[::-1]]), band)
    for i in range(3, len(lower) - 1, 4):
        pen.stroke(np.stack([lower[i] - (0.0, 0.04), upper[i] + (0.0, 0.04)]), 0.022, face.hat)


def _draw_bald(pen: Pen, face: Traits) -> None:
    shine = head_outline(face, 0.84, np.linspace(1.60 * np.pi, 1.74 * np.pi, 12)) * (face.side, 1.0)
    pen.stroke(shine, 0.06, mix(face.skin, WHITE, 0.45))
    if face.hair_jitter[1] > 0:  # a fringe over the ears
        rim = head_outline(face, 1.06, np.linspace(angle_at(0.10), angle_at(-0.42), 12))
        inner = smooth(points((0.96, -0.40), (0.86, -0.22), (0.93, 0.08))) * (face.half_width, 1.0)
        for side in (1.0, -1.0):
            pen.polygon(np.concatenate([rim, inner]) * (side, 1.0), face.hair_colour)


def _draw_curls(pen: Pen, face: Traits) -> None:
    colour = face.hair_colour
    pen.polygon(cap(face, -0.20, _short(face, top=-0.72, side=-0.20), 1.04), colour)
    for i, angle in enumerate(np.linspace(np.pi * 1.03, np.pi * 1.97, 9)):
        r = 0.185 + 0.025 * face.hair_jitter[i]
        pen.disc(0.93 * face.half_width * np.cos(angle), 0.84 * np.sin(angle), r, colour)
    for i, angle in enumerate(np.linspace(np.pi * 1.18, np.pi * 1.82, 5)):  # a few coils catch the light
        x, y = 0.98 * face.half_width * np.cos(angle), 0.98 * np.sin(angle)
        turn = np.linspace(0.0, 1.3 * np.pi, 10) + face.hair_jitter[i]
        coil = np.stack([x + 0.08 * np.cos(turn), y + 0.08 * np.sin(turn)], axis=1)
        pen.stroke(coil, 0.028, mix(colour, WHITE, 0.14))


def draw_front(pen: Pen, face: Traits) -> None:
    colour = face.hair_colour
    jitter = face.hair_jitter
    sheen = True
    if face.hair == "short":
        pen.polygon(cap(face, 0.03, _short(face)), colour)
    elif face.hair == "side":
        part = (0.42 + 0.08 * jitter[2], -0.80)
        pen.polygon(cap(face, 0.03, _swept(face, part, 0.03), face.hair_scale + 0.02), colour)
        x = face.side * part[0] * face.half_width
        pen.stroke(points((x, part[1]), (1.22 * x, -1.02)), 0.03, mix(colour, BLACK, 0.25))
    elif face.hair == "fringe":
        line = np.concatenate(
            [points((0.99, 0.06), (0.90, -0.10)), _scalloped(-0.33, 5), points((-0.90, -0.10), (-0.99, 0.06))]
        )
        pen.polygon(cap(face, 0.06, line), colour)
    elif face.hair == "bob":
        if jitter[3] > 0:
            lock = smooth(points((0.92, 0.52), (0.83, 0.20), (0.86, -0.16), (0.84, -0.26)))
            line = np.concatenate([lock, _scalloped(-0.33, 4), lock[::-1] * (-1.0, 1.0)])
        else:
            line = _swept(face, (0.30, -0.82), 0.03)
            lock = smooth(points((0.92, 0.52), (0.84, 0.25), (0.90, 0.0)))
            line = np.concatenate([lock, line[1:-1], lock[::-1] * (-1.0, 1.0)])
        pen.polygon(cap(face, 0.52, line), colour)
    elif face.hair == "long":
        lock = smooth(points((0.96, 0.62), (0.88, 0.30), (0.90, 0.05)))
        if jitter[3] > 0:
            half = smooth(points((0.90, 0.05), (0.86, -0.20), (0.62, -0.50), (0.25, -0.74), (0.0, -0.84)))
            line = mirrored(half)
        else:
            line = _swept(face, (0.34, -0.82), 0.03)[1:-1]
        pen.polygon(cap(face, 0.62, np.concatenate([lock, line, lock[::-1] * (-1.0, 1.0)])), colour)
    elif face.hair == "bun":
        half = points((1.0, 0.0), (0.93, -0.26), (0.74, -0.54), (0.40, -0.69), (0.0, -0.73))
        pen.polygon(cap(face, 0.0, smooth(mirrored(half)), 1.07), colour)
        for x in (-0.36, 0.0, 0.36):
            pen.stroke(points((x, -0.80 + 0.3 * x * x), (0.5 * x, -1.0)), 0.022, mix(colour, BLACK, 0.2))
        sheen = False
    elif face.hair == "curly":
        _draw_curls(pen, face)
        sheen = False
    elif face.hair == "afro":
        a = face.half_width
        outer = superellipse(a + 0.36, 1.08, np.linspace(1.03 * np.pi, 1.97 * np.pi, 40), y=-0.22)
        half = points((1.0 + 0.34 / a, -0.30), (1.06, 0.02), (0.97, 0.04), (0.84, -0.30), (0.46, -0.58), (0.0, -0.63))
        pen.polygon(np.concatenate([outer, smooth(mirrored(half)) * (a, 1.0)]), colour)
        sheen = False
    elif face.hair == "bald":
        _draw_bald(pen, face)
        sheen = False
    elif face.hair == "beanie":
        pen.polygon(cap(face, 0.06, _short(face, top=-0.5, side=0.06), 1.05), colour)
        _draw_beanie(pen, face)
        sheen = False
    elif face.hair == "spikes":
        half = points(
            (0.99, 0.02),
            (0.88, -0.30),
            (0.66, -0.46),
            (0.52, -0.64),
            (0.34, -0.52),
            (0.18, -0.68),
            (0.0, -0.54),
        )
        pen.polygon(np.concatenate([_spiked(face), mirrored(half) * (face.half_width, 1.0)]), colour)
        sheen = False
    else:
        half = smooth(points((0.98, 0.20), (0.92, -0.06), (0.74, -0.36), (0.36, -0.64), (0.0, -0.86)))
        pen.polygon(cap(face, 0.20, mirrored(half)), colour)
        pen.stroke(points((0.0, -0.86), (0.0, -1.03)), 0.03, mix(colour, BLACK, 0.25))
    if sheen:
        arc = head_outline(face, face.hair_scale - 0.12, np.linspace(1.60 * np.pi, 1.76 * np.pi, 12))
        pen.stroke(arc * (-face.side, 1.0), 0.045, mix(colour, WHITE, 0.16))
