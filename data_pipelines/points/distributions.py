"""The four distributions in the plane of appendix 9.2.1, at the scales of the authors' code.

Spirals, checkerboard and rings are those of the toy data of FFJORD and BNAF; their densities are described here.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from data_pipelines.choices import Registry

Points = NDArray[np.float64]
"""[N, 2]"""


class Distribution(ABC):
    """A distribution in the plane."""

    scale: ClassVar[float]
    """The authors' S: they draw and measure inside [-2 S, 2 S]^2."""
    centres: ClassVar[tuple[tuple[float, float], ...]] = ()
    """Means of the parts, where it is a mixture of Gaussians."""
    deviation: ClassVar[float] = 0.0
    """Standard deviation of each of them, in both directions."""

    @staticmethod
    @abstractmethod
    def draw(generator: Generator, count: int) -> Points:
        """`count` points, all that is random from the generator."""


_ROOT = 1.414
"""The authors' square root of 2, to three digits."""


class EightGaussians(Distribution):
    """Eight narrow Gaussians of equal weight on a circle of radius 1.41."""

    scale = 1.0
    centres = tuple((2 * math.cos(k * math.pi / 4) / _ROOT, 2 * math.sin(k * math.pi / 4) / _ROOT) for k in range(8))
    deviation = 0.02 / _ROOT

    @staticmethod
    def draw(generator: Generator, count: int) -> Points:
        centres = np.array(EightGaussians.centres)[generator.integers(8, size=count)]
        return centres + EightGaussians.deviation * generator.standard_normal((count, 2))


class Spiral(Distribution):
    """Two arms of one and a half turns, opposite each other; as many points at each radius as it is long."""

    scale = 2.0

    @staticmethod
    def draw(generator: Generator, count: int) -> Points:
        angle = np.sqrt(generator.random(count)) * 3 * math.pi
        jitter = generator.random((count, 2)) / 2
        arm = np.stack((-np.cos(angle) * angle, np.sin(angle) * angle), axis=1) + jitter
        side = generator.integers(2, size=count) * 2 - 1
        return side[:, None] * arm / 3 + 0.1 * generator.standard_normal((count, 2))


class Checkerboard(Distribution):
    """The eight squares of one colour among 4 x 4, of side 2, uniformly."""

    scale = 2.0

    @staticmethod
    def draw(generator: Generator, count: int) -> Points:
        across = generator.random(count) * 4 - 2
        up = generator.random(count) - 2 * generator.integers(2, size=count) + np.floor(across) % 2
        return 2 * np.stack((across, up), axis=1)


class Rings(Distribution):
    """Four rings around the origin, of radius 0.75, 1.5, 2.25 and 3 and of equal weight."""

    scale = 2.0

    @staticmethod
    def draw(generator: Generator, count: int) -> Points:
        radius = 0.75 * (1 + generator.integers(4, size=count))
        angle = 2 * math.pi * generator.random(count)
        circle = np.stack((np.cos(angle), np.sin(angle)), axis=1)
        return radius[:, None] * circle + 0.08 * generator.standard_normal((count, 2))


DISTRIBUTIONS: Registry[type[Distribution]] = Registry(
    "distribution", {"8gaussians": EightGaussians, "spiral": Spiral, "checkerboard": Checkerboard, "rings": Rings}
)
