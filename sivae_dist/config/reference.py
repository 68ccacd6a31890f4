"""The settings explained by their own fields: docstrings, types, ranges and defaults. Nothing is said twice.

`python -m sivae_dist.config.reference` (`make reference`) writes docs/settings.md, and the keys that a shell completes
without loading torch (launch/cli/completion.py).
"""

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from data_pipelines.choices import NameIn, OneOf, SumIn
from data_pipelines.problems import did_you_mean, groups_of, nearest
from sivae_dist.config.prolonging import when_resumed
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.settings import parse_images

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
KEYS = Path(__file__).with_name("keys.json")

_WIDTH = 120


@dataclass(frozen=True)
class Setting:
    """One key, or one of several that share it in different kinds of a group."""

    key: str
    takes: str
    """What may be given: `a number (at least 0)`; of a group, what it is."""
    default: str | None
    """As YAML writes it; None where there is none."""
    about: str
    """The docstring of the field; of a group chosen by name, with those of its kinds."""
    values: tuple[str, ...] = ()
    """Every value, where they can be listed."""
    group: bool = False
    of: tuple[str, ...] = ()
    """The kinds of its group that have it; empty: all."""
    per_key: bool = False
    """Whether it may be a mapping, whose keys follow in a dotted key (`schedule.batch.256`)."""

    def head(self) -> str:
        """The accepted values, and the default."""
        if self.default is None:
            return f"{self.takes}; required"
        return f"{self.takes}; default {self.default}" if self.default else self.takes

    @property
    def name(self) -> str:
        """The key, with the kinds that have it."""
        return f"{self.key} ({', '.join(self.of)})" if self.of else self.key


def settings_of(model: type[BaseModel], prefix: str = "") -> list[Setting]:
    """Every key of settings, groups before what is in them."""
    found: list[Setting] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        choice = next((mark for mark in field.metadata if isinstance(mark, OneOf)), None)
        if choice is not None:
            found += _choice(key, field, choice)
        elif groups := groups_of(field):
            found.append(Setting(key, "a group of settings", _of_group(field), _about(field, groups), group=True))
            found += [one for group in groups for one in settings_of(group, f"{key}.")]
        else:
            found.append(_value(key, field))
    return found


def _choice(key: str, field: FieldInfo, choice: OneOf) -> Iterator[Setting]:
    """A group whose `name` says which kind it is: what all kinds have first, then what only some have, then groups."""
    kinds: dict[str, type[BaseModel]] = dict(choice.registry)
    abouts = [f"`{name}`: {_of_class(kind)}" for name, kind in kinds.items() if _of_class(kind)]
    about = " ".join(filter(None, [_sentence(field.description), *abouts]))
    yield Setting(key, f"a group of settings, by its name {_either(list(kinds))}", _of_group(field), about, group=True)
    name = f"{key}.name"
    yield Setting(name, _either(list(kinds)), choice.default, f"The {choice.registry.what} to use.", tuple(kinds))
    having: dict[Setting, list[str]] = {}
    for kind, inner in kinds.items():
        for setting in settings_of(inner, f"{key}."):
            if setting.key != name:
                having.setdefault(setting, []).append(kind)
    shared = [setting for setting, those in having.items() if len(those) == len(kinds)]
    yield from shared
    some = [replace(setting, of=tuple(those)) for setting, those in having.items() if setting not in shared]
    yield from sorted(some, key=lambda setting: setting.group or setting.key.count(".") > name.count("."))


def _value(key: str, field: FieldInfo) -> Setting:
    default = field.get_default(call_default_factory=True, validated_data={})
    return Setting(
        key=key,
        takes=_takes(field.annotation, field.metadata),
        default=None if default is PydanticUndefined else _written(default),
        about=_sentence(field.description),
        values=tuple(_values(field.annotation, field.metadata)),
        per_key=any(get_origin(part) is dict for part in _parts(field.annotation)),
    )


def _of_group(field: FieldInfo) -> str | None:
    return None if field.is_required() else ""


def _about(field: FieldInfo, groups: Sequence[type[BaseModel]]) -> str:
    return _sentence(field.description) or " ".join(filter(None, map(_of_class, groups)))


def _of_class(model: type[BaseModel]) -> str:
    """A class's own docstring up to the first empty line, not that of what it is made from."""
    return _sentence(inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0])


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


_MAPPING = "a mapping from resolution to "

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "null",
    Any: "anything",
}


def _takes(annotation: Any, marks: Sequence[Any] = ()) -> str:
    """The accepted values of a type, in words."""
    if any(isinstance(mark, SumIn) for mark in marks):
        return f"{', '.join(_values(annotation, marks))}, or a mapping from these to numbers (greater than 0)"
    if names := _values(annotation, marks):
        return "true or false" if names == ["true", "false"] else _either(names)
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _takes(inner[0], [*_flat(inner[1:]), *marks])
    if origin in (Union, UnionType):
        several = [_takes(part, marks if part in (int, float) else ()) for part in inner]
        return _either(["one per resolution" if f"{_MAPPING}{several[0]}" == one else one for one in several])
    if origin is dict:
        if get_origin(inner[0]) is Annotated:  # a pattern for names
            return "a mapping from group of z to the same"
        return "a mapping" if inner[0] is str else f"{_MAPPING}{_takes(inner[1])}"
    if origin in (tuple, list):
        return f"a list of {_takes(inner[0])}"
    images = any(isinstance(mark, BeforeValidator) and mark.func is parse_images for mark in marks)
    words = "a number of images" if images else _WORDS.get(annotation, str(annotation))
    return f"{words}{_range(marks)}"


def _values(annotation: Any, marks: Sequence[Any] = ()) -> list[str]:
    """The values of a type that has only a few."""
    names = next((list(mark.registry) for mark in marks if isinstance(mark, NameIn)), None)
    if names is not None:
        return names
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    if get_origin(annotation) is Annotated:
        return _values(get_args(annotation)[0], get_args(annotation)[1:])
    return []


def _parts(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, UnionType, Annotated):
        for inner in get_args(annotation):
            yield from _parts(inner)
    else:
        yield annotation


def _flat(marks: Sequence[Any]) -> Iterator[Any]:
    for mark in marks:
        yield from mark.metadata if isinstance(mark, FieldInfo) else [mark]


def _range(marks: Sequence[Any]) -> str:
    """The bounds that marks set, ` (from 0 to 1)`; of several for one side the strictest."""
    bounds: dict[str, Any] = {}
    for side in ("gt", "ge", "lt", "le"):
        given = [getattr(mark, side) for mark in marks if getattr(mark, side, None) is not None]
        if given:
            bounds[side] = (max if side in ("gt", "ge") else min)(given)
    if "gt" in bounds and bounds.get("ge", bounds["gt"]) <= bounds["gt"]:
        bounds.pop("ge", None)
    if bounds.keys() == {"ge", "le"}:
        return f" (from {_written(bounds['ge'])} to {_written(bounds['le'])})"
    words = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
    said = " and ".join(f"{words[side]} {_written(bound)}" for side, bound in bounds.items())
    return f" ({said})" if said else ""


def _written(value: Any) -> str:
    """A value as YAML writes it on one line."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_written, value))}]"
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def _either(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def explain(key: str, model: type[BaseModel] = RunSettings) -> list[str]:
    """A key in lines of text; of a group (all settings for an empty key) its keys, a line each.

    ValueError with the nearest known key when there is none.
    """
    every = settings_of(model)
    key = key.partition("=")[0]
    own = [one for one in every if one.key == key or (one.per_key and key.rpartition(".")[0] == one.key)]
    if key and not own:
        raise ValueError(f"unknown key {key}{did_you_mean(nearest(key, [one.key for one in every]))}")
    lines = [line for one in own for line in _explained(one)]
    if not key or any(one.group for one in own):
        prefix = f"{key}." if key else ""
        inside = [one for one in every if one.key.startswith(prefix) and "." not in one.key.removeprefix(prefix)]
        width = max(len(one.name) for one in inside)
        lines += [*([""] if lines else []), *(f"  {one.name:{width}}  {one.head()}" for one in inside)]
    return lines


def _explained(one: Setting) -> list[str]:
    texts = [one.about] if one.group else [one.about, f"When a run is resumed, it {when_resumed(one.key)}."]
    return [f"{one.name}: {one.head()}", *(f"  {line}" for text in texts for line in _wrapped(text, 98))]


def page(model: type[BaseModel] = RunSettings) -> str:
    """The reference as Markdown: a section per group, a list of its settings in it."""
    lines = [_INTRODUCTION]
    for one in settings_of(model):
        if one.group:
            lines += ["", f"## {one.key}", "", *_wrapped(one.about), ""]
            continue
        resumed = when_resumed(one.key)
        mark = f" *{resumed}*" if resumed.startswith("may") else ""
        kinds = f" ({', '.join(one.of)})" if one.of else ""
        first, *more = [*_wrapped(f"- `{one.key}`{kinds}: {one.head()}.{mark}"), *_wrapped(one.about, _WIDTH - 2)]
        lines += [first, *(f"  {line}" for line in more)]
    return "\n".join(lines) + "\n"


_INTRODUCTION = """# Settings

Every key of a configuration: the values it takes, its default and its meaning. `sivae config explain KEY` prints the
same for one key, and `sivae config show CONFIG` all values of a configuration. This page is generated from the code
by `make reference`.

- Numbers of images are written like 5000, 600k or 1.8M.
- Where a setting takes one value per resolution, give a mapping, `'schedule.batch={128: 16, 256: 8}'`, or set one of
  them, `schedule.batch.256=8`.
- In parentheses after a key: the kinds that have it, if not all do.
- Settings marked *may change* can be changed when a run is resumed, those marked *may change for what lies ahead* as
  long as that does not contradict what has been trained; the others are fixed.

## The run itself
"""


def keys(model: type[BaseModel] = RunSettings) -> dict[str, list[str]]:
    """For a shell: every key that takes a value, with its values, or its default where they cannot be listed and no
    kind of its group requires one."""
    settings = settings_of(model)
    required = {one.key for one in settings if one.default is None}
    found: dict[str, list[str]] = {}
    for one in settings:
        if not one.group:
            usual = "" if one.key in required else one.default or ""
            plain = [usual] if re.fullmatch(r"[\w./+-]+", usual) else []
            known = found.setdefault(one.key, [])
            known += [value for value in one.values or plain if value not in known]
    return found


def _wrapped(text: str, width: int = _WIDTH) -> list[str]:
    """Lines that break no `code`."""
    kept = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(kept, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    lines = [f"{json.dumps(key)}: {json.dumps(values)}" for key, values in keys().items()]
    KEYS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
