"""Cars of boxes and wheels: a stand-in for Cars3D that any machine can compute.

As there, a picture has two factors: the model (its class), and from where it is seen (its content), which is the same
for all models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_pipelines.images.drawn.pen import Colour, mix
from data_pipelines.images.drawn.solids import Camera, Extrusion, Floats, Scene
from data_pipelines.images.sources.cars3d import AZIMUTHS, ELEVATIONS, VIEWS, held_out, view_name
from data_pipelines.streams import stream

SIZE = 64
OVERSAMPLING = 4
HEIGHTS = (4.0, 18.0, 32.0, 46.0)
"""Of the elevations: degrees above the horizon. Azimuths are steps of 15 degrees, from straight in front over the car's
left."""

BACKGROUND: Colour = (240, 241, 243)
SHADOW: Colour = (198, 200, 205)
GLASS: Colour = (62, 78, 96)
TYRE: Colour = (30, 30, 33)
DARK: Colour = (44, 44, 48)
HEADLAMP: Colour = (255, 244, 178)
TAIL_LAMP: Colour = (214, 22, 30)
PLATE: Colour = (246, 246, 240)
RIMS: tuple[Colour, ...] = ((214, 216, 222), (150, 154, 162), (92, 94, 100), (226, 196, 110), (246, 246, 246))
PAINTS: tuple[Colour, ...] = (
    (206, 32, 38), (236, 106, 28), (246, 190, 34), (150, 196, 44), (36, 140, 70), (28, 156, 160), (60, 150, 226),
    (34, 70, 180), (104, 56, 170), (214, 70, 150), (126, 76, 44), (222, 204, 166), (246, 247, 250), (164, 170, 178),
    (92, 98, 106), (44, 46, 54), (110, 22, 38), (24, 66, 58),
)  # fmt: skip

Load = Literal["sign", "box", "none"]

_ARCH = 1.2
"""Radius of the wheel arches, in radii of the wheels."""
_ROUND = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
_FRONT, _BONNET, _TOP, _BOOT, _REAR = 1, 2, 3, 4, 5
"""Edges of a body's profile; 0 is its bottom."""
_WINDSCREEN, _ROOF, _REAR_WINDOW = 1, 2, 3
"""Edges of a cabin's profile."""


@dataclass(frozen=True)
class Shape:
    """Proportions of a kind of car, in lengths of the body unless said otherwise."""

    length: float
    """In half wheelbases of a saloon."""
    height: float
    """Of the body without what is below it."""
    cabin: tuple[float, float]
    """Rear and front end of its foot, from -1 to 1 along the body."""
    roof: tuple[float, float]
    """Ends of the roof, the same."""
    cabin_height: float
    nose: float
    """Height of the bonnet's front end, in heights of the body."""
    tail: float
    """Height of the rear end, the same."""
    wheel: float
    """Radius."""
    clearance: float
    """Of the body above the ground, in radii."""
    bed: bool = False
    """Whether it is open behind the cabin."""


SHAPES: tuple[Shape, ...] = (
    Shape(2.10, 0.29, (-0.66, 0.36), (-0.40, 0.06), 0.27, 0.76, 0.90, 0.170, 0.75),  # saloon
    Shape(1.70, 0.32, (-0.98, 0.44), (-0.78, 0.10), 0.31, 0.72, 1.00, 0.165, 0.75),  # hatchback
    Shape(2.15, 0.38, (-0.98, 0.86), (-0.95, 0.52), 0.46, 0.86, 1.00, 0.165, 0.70),  # van
    Shape(2.20, 0.33, (-0.16, 0.48), (-0.10, 0.22), 0.31, 0.90, 1.00, 0.205, 0.95, bed=True),  # pickup
    Shape(2.05, 0.26, (-0.70, 0.18), (-0.34, -0.08), 0.19, 0.74, 0.94, 0.185, 0.55),  # sports car
    Shape(1.90, 0.40, (-0.97, 0.36), (-0.93, 0.22), 0.34, 0.96, 1.00, 0.225, 1.05),  # off-road car
    Shape(2.30, 0.30, (-0.97, 0.34), (-0.84, 0.04), 0.27, 0.78, 0.98, 0.170, 0.75),  # estate
)


@dataclass(frozen=True)
class Model:
    """What one car looks like: everything random about it. Lengths are those of the scene."""

    body: Extrusion
    cabin: Extrusion
    axles: tuple[float, float]
    """x of the rear and the front axle."""
    radius: float
    rim: float
    """Radius of the rims, in radii of the wheels."""
    bed: bool
    paint: Colour
    roof: Colour
    """Of the roof and the pillars."""
    side: Colour | None
    """Of a stripe along the sides."""
    stripes: Colour | None
    """Of two stripes over bonnet and roof."""
    rims: Colour
    lamps: float
    """Width of the lamps, in half widths of the car."""
    upright: bool
    """Whether the tail lamps stand upright."""
    grille: float
    """Half of its width, in half widths of the car."""
    load: Load
    """What stands on the roof."""


def draw_car(seed: int, index: int) -> npt.NDArray[np.uint8]:
    """Picture number `index` of the set `seed`: uint8 [64, 64, 3], RGB, a pure function of its arguments.

    index = (model * AZIMUTHS + azimuth) * ELEVATIONS + elevation.
    """
    model, view = divmod(index, VIEWS)
    azimuth, elevation = divmod(view, ELEVATIONS)
    return paint(draw_model(seed, model), 2 * np.pi * azimuth / AZIMUTHS, np.deg2rad(HEIGHTS[elevation]))


def name_cars(count: int) -> Callable[[int], str]:
    """Names of the first `count` pictures: `train/car-000/azimuth-00-elevation-0`; the last models are for testing.

    ValueError unless there are all pictures of at least two models.
    """
    models, others = divmod(count, VIEWS)
    if others or models < 2:
        raise ValueError(f"each car has {VIEWS} images: draw a multiple of that, and at least {2 * VIEWS} for two cars")
    first_test = models - held_out(models)
    digits = max(3, len(str(models - 1)))

    def name(index: int) -> str:
        model, view = divmod(index, VIEWS)
        split = "test" if model >= first_test else "train"
        return f"{split}/car-{model:0{digits}d}/{view_name(view)}"

    return name


def draw_model(seed: int, number: int) -> Model:
    rng = stream(seed, "drawn car", number)

    def about(value: float, share: float) -> float:
        return value * float(rng.uniform(1 - share, 1 + share))

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    def paint_other_than(colour: Colour) -> Colour:
        others = [paint for paint in PAINTS if np.abs(np.subtract(paint, colour)).max() > 90]
        return others[rng.integers(len(others))]

    shape = SHAPES[rng.integers(len(SHAPES))]
    half, height, radius = about(shape.length, 0.07) / 2, about(shape.height, 0.12), about(shape.wheel, 0.1)
    width, floor = about(0.43, 0.08), about(shape.clearance, 0.12) * radius
    belt = floor + height
    rear, front = (half * (end + float(rng.uniform(-0.04, 0.04))) for end in shape.cabin)
    rear = max(rear, -0.97 * half)
    roof_rear, roof_front = (half * (end + float(rng.uniform(-0.04, 0.04))) for end in shape.roof)
    roof_rear, roof = max(roof_rear, rear + 0.02), belt + about(shape.cabin_height, 0.12)
    nose, tail = (floor + height * min(0.97, about(part, 0.06)) for part in (shape.nose, shape.tail))
    corner = -0.985 * half if shape.bed else max(-0.985 * half, rear - 0.02)
    profile = [(-half, floor), (half, floor), (half, nose), (front + 0.02, belt), (corner, belt), (-half, tail)]
    body = Extrusion(np.array(profile), (floor, width * 0.97), (belt, width * about(0.97, 0.02)))
    cabin = Extrusion(
        np.array([(rear, belt), (front, belt), (roof_front, roof), (roof_rear, roof)]),
        (belt, width * 0.93), (roof, width * about(0.76, 0.06)),
    )  # fmt: skip
    base = PAINTS[rng.integers(len(PAINTS))]
    base = mix(base, PAINTS[rng.integers(len(PAINTS))], float(rng.uniform(0.0, 0.25)))
    paint = mix(base, DARK, float(rng.uniform(0.0, 0.15)))
    other = paint_other_than(paint)
    extra = rng.random()
    axles = (-half * about(0.60, 0.06), half * about(0.64, 0.06))
    over = [x + end for x in axles for end in (-_ARCH * radius, _ARCH * radius)]
    top = np.interp(over, [-half, corner, front, half], [tail, belt, belt, nose])
    return Model(
        body, cabin, axles,
        radius=min(radius, float(top.min()) / (1.05 + _ARCH)),
        rim=about(0.60, 0.14),
        bed=shape.bed,
        paint=paint,
        roof=other if chance(0.35) else paint,
        side=paint_other_than(paint) if chance(0.25) else None,
        stripes=paint_other_than(paint) if chance(0.2) else None,
        rims=RIMS[rng.integers(len(RIMS))],
        lamps=about(0.34, 0.3),
        upright=chance(0.5),
        grille=about(0.42, 0.35),
        load="sign" if extra < 0.1 else "box" if extra < 0.22 else "none",
    )  # fmt: skip


def paint(model: Model, azimuth: float, elevation: float) -> npt.NDArray[np.uint8]:
    """The model seen from there (radians): uint8 [64, 64, 3]."""
    image = Image.new("RGB", (SIZE * OVERSAMPLING, SIZE * OVERSAMPLING), BACKGROUND)
    scene = Scene(image, Camera(azimuth, elevation, distance=5.0, height=0.32, reach=1.42))
    body = model.body
    wheels = [(side, x) for side in (-1, 1) for x in model.axles]
    wheels.sort(key=lambda wheel: -scene.distance(np.array([wheel[1], wheel[0], model.radius])))
    scene.hull(_corners(body) * (1.01, 1.04, 0.0), SHADOW)
    for side, x in wheels:
        _inner_wheel(scene, model, side, x)
    _body(scene, model)
    _cabin(scene, model)
    for side, x in wheels:  # of the side that is seen; nothing is before them
        if scene.sees(body.on_side(side, body.profile), body.side_normal(side)):
            _outer_wheel(scene, model, side, x)
    return np.asarray(image.reduce(OVERSAMPLING), dtype=np.uint8)


def _corners(solid: Extrusion) -> Floats:
    return np.concatenate([solid.on_side(side, solid.profile) for side in (-1, 1)])


def _disc(model: Model, side: int, x: float, radius: float, out: float) -> Floats:
    """A circle around an axle, `out` from the foot of the car's side."""
    foot = model.body.on_side(side, model.body.profile[:1])[0, 1]
    cos, sin = radius * np.cos(_ROUND), radius * np.sin(_ROUND)
    return np.stack([x + cos, np.full(len(_ROUND), foot + side * out), model.radius + sin], axis=1)


def _inner_wheel(scene: Scene, model: Model, side: int, x: float) -> None:
    """The tyre, whose upper part the body hides."""
    scene.hull(np.concatenate([_disc(model, side, x, model.radius, out) for out in (-0.14, 0.0)]), TYRE)


def _outer_wheel(scene: Scene, model: Model, side: int, x: float) -> None:
    normal = np.array([0.0, side, 0.0])
    scene.hull(np.concatenate([_disc(model, side, x, model.radius, out) for out in (0.0, 0.02)]), TYRE)
    scene.face(_disc(model, side, x, model.radius * model.rim, 0.02), normal, model.rims)
    scene.face(_disc(model, side, x, model.radius * model.rim * 0.35, 0.02), normal, DARK)


def _body(scene: Scene, model: Model) -> None:
    body = model.body

    def panel(edge: int, across: tuple[float, float], along: tuple[float, float], colour: Colour, glow: float) -> None:
        scene.face(body.on_edge(edge, across, along), body.edge_normal(edge), colour, glow)

    body.draw(scene, model.paint)
    for side in (-1, 1):
        _side(scene, model, side)
    panel(_FRONT, (-1.0, 1.0), (0.0, 0.22), DARK, 0.0)
    panel(_FRONT, (-model.grille, model.grille), (0.36, 0.86), DARK, 0.0)
    panel(_FRONT, (-0.2, 0.2), (0.1, 0.3), PLATE, 0.3)
    panel(_REAR, (-1.0, 1.0), (0.82, 1.0), DARK, 0.0)
    panel(_REAR, (-0.24, 0.24), (0.4, 0.62), PLATE, 0.3)
    tail, foot = (0.16, 0.6) if model.upright else (model.lamps, 0.36)
    for side in (-1, 1):
        panel(_FRONT, _pair(side, 0.97 - model.lamps, 0.97), (0.5, 0.88), HEADLAMP, 0.8)
        panel(_REAR, _pair(side, 0.97 - tail, 0.97), (0.08, foot), TAIL_LAMP, 0.8)
        if model.stripes:
            panel(_BONNET, _pair(side, 0.08, 0.32), (0.0, 1.0), model.stripes, 0.0)
            panel(_BOOT, _pair(side, 0.08, 0.32), (0.0, 1.0), model.stripes, 0.0)
    if model.bed:
        cowl, corner = body.profile[[_TOP, _BOOT], 0]
        start = (cowl - model.cabin.profile[0, 0]) / (cowl - corner)
        panel(_TOP, (-0.84, 0.84), (float(start), 0.96), DARK, 0.0)


def _pair(side: int, inner: float, outer: float) -> tuple[float, float]:
    """A stretch on one side of the middle, from right to left."""
    return (inner, outer) if side > 0 else (-outer, -inner)


def _side(scene: Scene, model: Model, side: int) -> None:
    body, normal = model.body, model.body.side_normal(side)
    low, high = body.profile[0, 1], body.profile[_TOP, 1]
    half = body.profile[1, 0]

    def strip(start: float, end: float, foot: float, top: float, colour: Colour) -> None:
        """Between heights in shares of the body's."""
        foot, top = (low + share * (high - low) for share in (foot, top))
        scene.face(body.on_side(side, np.array([(start, foot), (end, foot), (end, top), (start, top)])), normal, colour)

    strip(-half, half, 0.0, 0.13, DARK)
    if model.side:
        strip(-half, half, 0.34, 0.56, model.side)
    for x in _pillars(model):
        strip(x - 0.01, x + 0.01, 0.13, 0.97, mix(model.paint, DARK, 0.6))
    arch = _ARCH * model.radius
    for x in model.axles:
        flat = np.stack([x + arch * np.cos(_ROUND), model.radius + arch * np.sin(_ROUND)], axis=1)
        scene.face(body.on_side(side, flat.clip((-np.inf, low))), normal, DARK)


def _pillars(model: Model) -> list[float]:
    """x between the windows, and doors, of a side."""
    rear, front = model.cabin.profile[:2, 0]
    count = 1 if front - rear < 0.95 else 2
    return [float(rear + (front - rear) * (k + 1) / (count + 1)) for k in range(count)]


def _cabin(scene: Scene, model: Model) -> None:
    cabin = model.cabin
    cabin.draw(scene, model.roof)
    ends = [-np.inf, *_pillars(model), np.inf]
    for side in (-1, 1):
        for start, end in pairwise(ends):
            window = _cut(_cut(_panes(cabin.profile), start + 0.022, 1), end - 0.022, -1)
            if len(window):
                scene.face(cabin.on_side(side, window), cabin.side_normal(side), GLASS)
    for edge, along in ((_WINDSCREEN, (0.06, 0.9)), (_REAR_WINDOW, (0.14, 0.78))):
        scene.face(cabin.on_edge(edge, (-0.88, 0.88), along), cabin.edge_normal(edge), GLASS)
    if model.stripes:
        for side in (-1, 1):
            stripe = cabin.on_edge(_ROOF, _pair(side, 0.08, 0.36), (0.0, 1.0))
            scene.face(stripe, cabin.edge_normal(_ROOF), model.stripes)
    _load(scene, model)


def _panes(profile: Floats) -> Floats:
    """[4, 2]: the glass of a side, with a frame around."""
    rear, front, roof_front, roof_rear = profile
    low, high = 0.08, 0.86
    corners = [rear + low * (roof_rear - rear), front + low * (roof_front - front)]
    corners += [front + high * (roof_front - front), rear + high * (roof_rear - rear)]
    return np.array(corners) + [(0.035, 0.0), (-0.035, 0.0), (-0.035, 0.0), (0.035, 0.0)]


def _cut(polygon: Floats, x: float, sign: int) -> Floats:
    """The part of a convex polygon [n, 2] with `sign` * (its x - x) >= 0."""
    kept: list[Floats] = []
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        before, after = sign * (start[0] - x), sign * (end[0] - x)
        if before >= 0:
            kept.append(start)
        if before * after < 0:
            kept.append(start + (end - start) * before / (before - after))
    return np.array(kept)


def _load(scene: Scene, model: Model) -> None:
    if model.load == "none":
        return
    (front, roof), (rear, _) = model.cabin.profile[2:]
    wide = abs(float(model.cabin.on_side(1, model.cabin.profile[2:])[0, 1]))
    middle = (front + rear) / 2
    if model.load == "sign":
        half, height, across, colour = 0.05, 0.08, 0.55 * wide, HEADLAMP
    else:
        half, height, across, colour = 0.42 * (front - rear), 0.09, 0.8 * wide, model.rims
    corners = [
        (middle - half, roof),
        (middle + half, roof),
        (middle + half, roof + height),
        (middle - half, roof + height),
    ]
    Extrusion(np.array(corners), (roof, across), (roof + height, across)).draw(scene, colour)
