"""What one drawn face looks like: everything random about it, drawn once from its own generator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from data_pipelines.images.drawn.pen import Colour, mix

T = TypeVar("T")

Hair = Literal["short", "side", "fringe", "bob", "long", "bun", "curly", "afro", "bald", "beanie", "spikes", "parted"]
Beard = Literal["none", "full", "goatee", "moustache"]
Nose = Literal["dot", "hook", "vee"]
Mouth = Literal["smile", "open", "flat", "lips", "small"]
Glasses = Literal["none", "round", "square"]

WHITE: Colour = (255, 255, 255)
BROWN: Colour = (84, 40, 26)

BACKGROUNDS: tuple[Colour, ...] = (
    (250, 208, 196), (252, 226, 180), (246, 238, 178), (206, 232, 186), (176, 226, 206), (170, 224, 232),
    (172, 206, 240), (190, 190, 240), (216, 188, 236), (244, 190, 222), (228, 216, 200), (198, 210, 216),
)  # fmt: skip
SHIRTS: tuple[Colour, ...] = (
    (224, 82, 82), (240, 148, 64), (244, 204, 88), (92, 176, 116), (64, 156, 172), (70, 108, 188),
    (126, 92, 176), (60, 64, 84), (236, 232, 224),
)  # fmt: skip
SKINS: tuple[Colour, ...] = (
    (255, 226, 204), (250, 210, 180), (240, 192, 154), (226, 170, 126), (204, 142, 100), (172, 112, 76),
    (136, 86, 58), (104, 66, 46),
)  # fmt: skip
IRISES: tuple[Colour, ...] = ((74, 44, 28), (116, 72, 36), (60, 112, 170), (74, 134, 84), (106, 122, 134))
FRAMES: tuple[Colour, ...] = ((36, 36, 42), (112, 64, 40), (176, 52, 60), (56, 84, 150))
BEANIES: tuple[Colour, ...] = ((206, 70, 78), (66, 120, 168), (232, 170, 62), (84, 146, 110), (132, 94, 162))

HAIR_COLOURS: dict[Colour, float] = {
    (34, 28, 30): 0.26, (62, 40, 30): 0.22,  # dark
    (98, 62, 38): 0.10, (136, 76, 42): 0.06, (196, 92, 42): 0.06,  # brown to ginger
    (222, 180, 96): 0.10, (240, 214, 148): 0.06,  # blond
    (172, 170, 172): 0.05,  # grey
    (236, 120, 170): 0.03, (84, 128, 214): 0.03, (54, 170, 164): 0.03,  # dyed
}  # fmt: skip
HAIR_STYLES: dict[Hair, float] = {
    "short": 0.14, "side": 0.13, "fringe": 0.10, "bob": 0.09, "long": 0.13, "bun": 0.08, "curly": 0.09,
    "afro": 0.06, "bald": 0.04, "beanie": 0.05, "spikes": 0.04, "parted": 0.05,
}  # fmt: skip
MOUTHS: dict[Mouth, float] = {"smile": 0.34, "open": 0.26, "flat": 0.14, "lips": 0.16, "small": 0.10}
NOSES: dict[Nose, float] = {"dot": 0.3, "hook": 0.4, "vee": 0.3}
BEARDS: dict[Beard, float] = {"full": 0.45, "goatee": 0.3, "moustache": 0.25}
GLASSES: dict[Glasses, float] = {"none": 0.76, "round": 0.13, "square": 0.11}
BEARDED = 0.38
"""Share of beards among the faces whose hair is none of BEARDLESS."""
BEARDLESS = frozenset[Hair]({"long", "bob", "bun", "fringe"})


@dataclass(frozen=True)
class Traits:
    """Lengths are in half heights of the head, angles in radians, positions in shares of the canvas."""

    background: Colour
    unit: float
    centre: tuple[float, float]
    roll: float
    yaw: float
    half_width: float
    jaw: float
    skin: Colour
    shirt: Colour
    hair: Hair
    hair_colour: Colour
    hair_scale: float
    hair_jitter: tuple[float, ...]
    side: int
    hat: Colour
    beard: Beard
    blush: bool
    eye: float
    iris: Colour
    gaze: tuple[float, float]
    lashes: bool
    brow_tilt: float
    brow_width: float
    brow_height: float
    nose: Nose
    mouth: Mouth
    mouth_width: float
    mouth_curve: float
    glasses: Glasses
    frame: Colour

    @property
    def skin_shade(self) -> Colour:
        return mix(self.skin, BROWN, 0.30)


def draw_traits(rng: np.random.Generator) -> Traits:
    """The traits that `rng` gives; the order of the draws is part of what a (seed, index) means."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    def pick(colours: tuple[Colour, ...]) -> Colour:
        return colours[int(rng.integers(len(colours)))]

    def jittered(colour: Colour, spread: float) -> Colour:
        moved = np.clip(np.array(colour) + rng.uniform(-spread, spread, 3), 0, 255)
        return int(moved[0]), int(moved[1]), int(moved[2])

    def weighted(table: Mapping[T, float]) -> T:
        names, edges = list(table), np.cumsum(list(table.values()))
        return names[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]

    def normal(spread: float, limit: float = 2.5) -> float:
        return spread * float(np.clip(rng.standard_normal(), -limit, limit))

    hair = weighted(HAIR_STYLES)
    beard: Beard = "none"
    if hair not in BEARDLESS and chance(BEARDED):
        beard = weighted(BEARDS)
    return Traits(
        background=jittered(pick(BACKGROUNDS), 10),
        unit=between(0.36, 0.40),
        centre=(between(0.48, 0.52), between(0.515, 0.545)),
        roll=np.deg2rad(normal(3.5)),
        yaw=between(-0.09, 0.09),
        half_width=between(0.74, 0.86),
        jaw=between(0.08, 0.28),
        skin=jittered(pick(SKINS), 5),
        shirt=jittered(pick(SHIRTS), 10),
        hair=hair,
        hair_colour=jittered(weighted(HAIR_COLOURS), 6),
        hair_scale=between(1.07, 1.12),
        hair_jitter=tuple(float(j) for j in rng.uniform(-1.0, 1.0, 12)),
        side=1 if chance(0.5) else -1,
        hat=jittered(pick(BEANIES), 10),
        beard=beard,
        blush=chance(0.5),
        eye=between(0.15, 0.185),
        iris=pick(IRISES),
        gaze=(between(-0.14, 0.14), between(-0.08, 0.10)),
        lashes=chance(0.7 if hair in BEARDLESS else 0.15),
        brow_tilt=between(-0.05, 0.07),
        brow_width=between(0.055, 0.085),
        brow_height=between(-0.03, 0.05),
        nose=weighted(NOSES),
        mouth=weighted(MOUTHS),
        mouth_width=between(0.85, 1.15),
        mouth_curve=between(0.75, 1.25),
        glasses=weighted(GLASSES),
        frame=pick(FRAMES),
    )
