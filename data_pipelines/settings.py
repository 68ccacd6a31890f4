"""The base of every settings class of the three packages, and what a user's numbers and paths mean in it."""

import os
import re
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator


class WrittenInt(int):
    """A whole number that remembers how it was written: where text is wanted, `007` keeps its zeros."""

    text: str


class WrittenFloat(float):
    """The same of a number with a fraction or an exponent."""

    text: str


class Settings(BaseModel):
    """Frozen, closed to unknown keys; the docstring under a field is its documentation.

    No number is infinite or NaN, and `true` is no number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {
            as_meant(name): as_meant(value, fields[name].annotation if name in fields else Any)
            for name, value in values.items()
        }


class MayChange:
    """Marks a field, by `Annotated[..., MAY_CHANGE]`, that may be another when a run is resumed; a group with all that
    is in it. Such a setting does not change what is learned."""


MAY_CHANGE = MayChange()


def as_meant(value: Any, annotation: Any = Any) -> Any:
    """A value with each number that was written in YAML as text, where `annotation` wants text, or as a plain number.

    `true` becomes text where a number is wanted, which it is not.
    """
    if isinstance(value, bool) and _takes(annotation, int, float) and not _takes(annotation, bool):
        return str(value).lower()
    if isinstance(value, WrittenInt | WrittenFloat):
        wants_text = _takes(annotation, str, os.PathLike) and not _takes(annotation, int, float)
        return value.text if wants_text else (int if isinstance(value, int) else float)(value)
    if isinstance(value, list | tuple):
        inner = next((get_args(kind)[0] for kind in _kinds(annotation) if get_origin(kind) in (tuple, list)), Any)
        return type(value)(as_meant(one, inner) for one in value)
    if isinstance(value, dict):
        if any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in _kinds(annotation)):
            return value  # whose own fields say what they want
        of_key, of_value = next((get_args(kind) for kind in _kinds(annotation) if get_origin(kind) is dict), (Any, Any))
        return {as_meant(key, of_key): as_meant(one, of_value) for key, one in value.items()}
    return value


def _takes(annotation: Any, *types: type) -> bool:
    return any(
        isinstance(kind, type) and (issubclass(kind, types) and (kind is not bool or bool in types))
        for kind in _kinds(annotation)
    )


@cache
def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types that a value of this annotation may have; those of its choices for a Literal."""
    if get_origin(annotation) is Literal:
        return tuple(type(choice) for choice in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(kind for inner in get_args(annotation) for kind in _kinds(inner))
    return (annotation,)


def expand(path: str) -> str:
    """A path with `~` and `$VARIABLES` replaced. ValueError for a variable that is not set."""
    found = os.path.expanduser(os.path.expandvars(path))
    unset = re.search(r"\$(\w+|\{[^}]*\})", found)
    if unset and not os.path.exists(found):
        raise ValueError(f"{unset[0]} of {path} is not set in the environment")
    return found
