"""The kinds of value that settings share: numbers of images, and values that may differ by resolution."""

import re
from decimal import Decimal
from typing import Annotated, Any, TypeVar, cast

from pydantic import BeforeValidator, Field

from data_pipelines.settings import MAY_CHANGE as MAY_CHANGE
from data_pipelines.settings import Settings as Settings
from data_pipelines.stages import pixels

_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def parse_images(value: object) -> object:
    """`600k`, `1.8M` and `2e6` are numbers of images, as well as plain integers."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([kmg]?)", value.strip().lower())
        number = Decimal(match[1]) * _UNITS[match[2]] if match else Decimal("0.5")
        if not number.is_finite() or number >= 10**18 or number % 1:
            raise ValueError(f"{value!r} is not a number of images; write 5000, 600k or 1.8M")
        return int(number)
    return int(value) if isinstance(value, float) and value.is_integer() else value


Images = Annotated[int, BeforeValidator(parse_images), Field(ge=0)]
"""A number of images seen, the one unit of progress."""

_NotNegative = Annotated[float, Field(ge=0)]

PerResolution = _NotNegative | dict[int, _NotNegative]
"""One value for every resolution, or a value for each; none is negative."""

PerGroup = PerResolution | dict[Annotated[str, Field(pattern=r"^[a-z]")], PerResolution]
"""The same, or such values for each named group of z."""

SharePerResolution = float | dict[int, float]
"""The same of a share, whose range is checked where the resolutions are known."""

ImagesPerResolution = Images | dict[int, Images]
IntPerResolution = int | dict[int, int]


T = TypeVar("T", int, float)


def at(value: T | dict[int, T], resolution: int, name: str) -> T:
    """The value that holds at `resolution`; ValueError naming the setting when there is none."""
    if not isinstance(value, dict):
        return value
    if resolution not in value:
        raise ValueError(f"{name} has no value{pixels(resolution, ' for ')}; it has {sorted(value)}")
    return value[resolution]


def at_each(value: PerGroup, resolution: int, name: str) -> float | dict[str, float]:
    """`at`, of each group where there is a value for each."""
    if isinstance(value, dict) and any(isinstance(key, str) for key in value):
        return {str(key): at(one, resolution, f"{name}.{key}") for key, one in value.items()}
    return at(cast(PerResolution, value), resolution, name)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
