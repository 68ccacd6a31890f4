"""The four distributions in the plane of appendix 9.2.1, at the scales of the authors' code.

Spirals, checkerboard and rings are those of the toy data of FFJORD and BNAF; their densities are described here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from data_pipelines.choices import Registry

Points = NDArray[np.float64]
"""[N, 2]"""


@dataclass(frozen=True)
class Distribution:
    """A distribution in the plane."""

    draw: Callable[[Generator, int], Points]
    """`count` points [count, 2], all that is random from the generator."""
    scale: float
    """The authors' S: they draw and measure inside [-2 S, 2 S]^2."""
    centres: tuple[tuple[float, float], ...] = ()
    """Means of the parts, where it is a mixture of Gaussians."""
    deviation: float = 0.0
    """Standard deviation of each of them, in both directions."""


_ROOT = 1.414
"""The authors' square root of 2, to three digits."""

_EIGHT = tuple((2 * math.cos(k * math.pi / 4) / _ROOT, 2 * math.sin(k * math.pi / 4) / _ROOT) for k in range(8))
_NARROW = 0.02 / _ROOT


def _eight_gaussians(generator: Generator, count: int) -> Points:
    """Eight narrow Gaussians of equal weight on a circle of radius 1.41."""
    which = generator.integers(8, size=count)
    return np.array(_EIGHT)[which] + _NARROW * generator.standard_normal((count, 2))


def _spiral(generator: Generator, count: int) -> Points:
    """Two arms of one and a half turns, opposite each other; as many points at each radius as it is long."""
    angle = np.sqrt(generator.random(count)) * 3 * math.pi
    jitter = generator.random((count, 2)) / 2
    arm = np.stack((-np.cos(angle) * angle, np.sin(angle) * angle), axis=1) + jitter
    side = generator.integers(2, size=count) * 2 - 1
    return side[:, None] * arm / 3 + 0.1 * generator.standard_normal((count, 2))


def _checkerboard(generator: Generator, count: int) -> Points:
    """The eight squares of one colour among 4 x 4, of side 2, uniformly."""
    across = generator.random(count) * 4 - 2
    up = generator.random(count) - 2 * generator.integers(2, size=count) + np.floor(across) % 2
    return 2 * np.stack((across, up), axis=1)


def _rings(generator: Generator, count: int) -> Points:
    """Four rings around the origin, of radius 0.75, 1.5, 2.25 and 3 and of equal weight."""
    radius = 0.75 * (1 + generator.integers(4, size=count))
    angle = 2 * math.pi * generator.random(count)
    circle = np.stack((np.cos(angle), np.sin(angle)), axis=1)
    return radius[:, None] * circle + 0.08 * generator.standard_normal((count, 2))


DISTRIBUTIONS: Registry[Distribution] = Registry(
    "distribution",
    {
        "8gaussians": Distribution(_eight_gaussians, 1.0, _EIGHT, _NARROW),
        "spiral": Distribution(_spiral, 2.0),
        "checkerboard": Distribution(_checkerboard, 2.0),
        "rings": Distribution(_rings, 2.0),
    },
)
