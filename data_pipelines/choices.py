"""Choices by `name`: registries of kinds, to which code outside these packages can add its own.

Code that uses a registry never mentions a particular kind. In settings, `one_of(REGISTRY)` declares a group with a
`name`, `name_in(REGISTRY)` a plain name, and `sum_in(REGISTRY)` weights by name; a wrong name gets the same message
everywhere.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

from data_pipelines.problems import not_one_of

Kind = TypeVar("Kind")


class Registry(Mapping[str, Kind], Generic[Kind]):
    """The kinds of one thing by name, in the order in which they were added."""

    def __init__(self, what: str, kinds: Mapping[str, Kind] = MappingProxyType({})) -> None:
        """`what`: the word for one kind in messages, such as `objective`; for settings, also their key."""
        self.what = what
        self._kinds = dict(kinds)

    def add(self, name: str) -> Callable[[Kind], Kind]:
        """A decorator that adds a kind. ValueError when the name is taken by another."""

        def added(kind: Kind) -> Kind:
            known = self._kinds.get(name)
            if known is not None and _place(known) != _place(kind):
                raise ValueError(f"the {self.what} {name} exists already: {'.'.join(_place(known))}")
            self._kinds[name] = kind
            return kind

        return added

    def __getitem__(self, name: str) -> Kind:
        """ValueError, with the nearest name, when there is none."""
        if name not in self._kinds:
            raise ValueError(not_one_of(name, list(self._kinds)))
        return self._kinds[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._kinds

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)


def _place(kind: object) -> tuple[str, str]:
    """Where a class is defined; a module may be imported twice."""
    return getattr(kind, "__module__", ""), getattr(kind, "__qualname__", repr(kind))


class OneOf:
    """For `Annotated[BASE, one_of(REGISTRY)]`: a group of settings whose key `name` says which kind it is."""

    def __init__(self, registry: Registry[Any], default: str | None) -> None:
        self.registry = registry
        self.default = default

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validated)

    def kinds(self) -> list[type[BaseModel]]:
        return list(self.registry.values())

    def _validated(self, value: Any) -> BaseModel:
        if isinstance(value, BaseModel):
            if type(value) not in self.registry.values():
                what = self.registry.what
                raise ValueError(f"{type(value).__name__} is not a registered {what}; add it to the registry")
            return value
        if not isinstance(value, dict):
            raise PydanticKnownError("dict_type")
        name: Any = value.get("name", self.default)
        if name is None and "name" not in value:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'name'"})
        if name not in self.registry:
            expected = ", ".join(f"'{known}'" for known in self.registry)
            context = {"discriminator": "'name'", "tag": str(name), "expected_tags": expected}
            raise PydanticKnownError("union_tag_invalid", context)
        self._check_foreign(name, value)
        kind: type[BaseModel] = self.registry[name]
        return kind.model_validate({"name": name} | value)

    def _check_foreign(self, name: str, values: dict[Any, Any]) -> None:
        """ValueError in one line when only the name was changed and the rest belongs to another kind."""
        what = self.registry.what
        own = self.registry[name].model_fields
        fields = {other: kind.model_fields.keys() for other, kind in self.registry.items()}
        foreign = [key for key in values if key not in own and any(key in keys for keys in fields.values())]
        if not foreign:
            return
        lacks = f"{name} has no {' or '.join(foreign)}"
        if "name" in values:
            given = f"{{name: {name}, ...}}"
            any_of = ", ".join(list(own)[1:])
            lacks += f"; to choose another {what}, set all of it, '{what}={given}' with any of {any_of}"
        else:
            having = next(other for other, keys in fields.items() if foreign[0] in keys)
            lacks += (
                f"; set the whole {what}, '{what}={{name: {name}}}' or "
                f"'{what}={{name: {having}, {foreign[0]}: {values[foreign[0]]}}}'"
            )
        raise PydanticCustomError("value_error", "{said}", {"said": lacks})


def one_of(registry: Registry[Any], default: str | None = None) -> OneOf:
    """`default` is the kind of a group without a `name`."""
    return OneOf(registry, default)


class NameIn:
    """For `Annotated[str, name_in(REGISTRY)]`: the name of one of its kinds."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validated)

    def _validated(self, value: Any) -> str:
        if value not in self.registry:
            expected = ", ".join(f"'{name}'" for name in self.registry)
            raise PydanticKnownError("literal_error", {"expected": expected})
        return str(value)


class SumIn(NameIn):
    """For `Annotated[str | dict[str, float], sum_in(REGISTRY)]`: a name, or the weights of several by name."""

    def _validated(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return super()._validated(value)
        if not value:
            raise ValueError(f"no {self.registry.what} is named")
        for name, weight in value.items():
            self.registry[name]  # ValueError with the nearest name
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name} is {weight!r}, not a number greater than 0")
        return {name: float(weight) for name, weight in value.items()}


def sum_in(registry: Registry[Any]) -> SumIn:
    return SumIn(registry)


def name_in(registry: Registry[Any]) -> NameIn:
    return NameIn(registry)
