"""Messages about wrong settings: the only place that words pydantic's errors."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

_LONGEST = 300
"""Characters of anything that is quoted, which may come from a damaged file."""

_HINTS = 3

_ELSEWHERE_CALLED = {
    "batch_size": "batch",
    "batchsize": "batch",
    "bs": "batch",
    "learning_rate": "lr",
    "num_workers": "threads",
    "workers": "threads",
    "z_dim": "latent",
    "zdim": "latent",
    "latent_dim": "latent",
    "image_size": "resolution",
    "img_size": "resolution",
    "random_seed": "seed",
    "mixed_precision": "precision",
    "dtype": "precision",
    "grad_clip": "clip",
    "gradient_clip": "clip",
    "epoch": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "nimg": "images",
    "kimg": "images",
    "steps": "images",
    "max_steps": "images",
    "iterations": "images",
    "save_every": "checkpoint.every",
    "dataset": "data.path",
    "data_path": "data.path",
    "data_dir": "data.path",
    "gpu": "device",
    "grad_accum": "max_batch_per_rank",
    "resume": "init.run",
}
"""By the name that other software has for a setting: the last part of its key, or the whole key."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    key: str
    """Dotted, as a user would write it; empty when it is not about one key."""
    message: str
    """What is wrong and what to do, without the key unless `whole`."""
    whole: bool = False
    """Whether the message is a sentence of its own, which names the key."""

    def __str__(self) -> str:
        return self.message if self.whole or not self.key else f"{self.key}: {self.message}"


def problems(error: ValidationError, model: type[BaseModel] | None = None, values: object = None) -> list[Problem]:
    """One problem for each key that is wrong.

    `model` and `values` are what was validated: by the first, unknown keys get the nearest known ones, and by the
    second, a key has no part that pydantic alone knows (the branch of a union).
    """
    found: dict[str, tuple[int, Problem]] = {}
    complaints = [(details, _location(details, values)) for details in error.errors(include_url=False)]
    # Of a union of mappings, the one whose keys these are says what is wrong with a value.
    with_values = {tuple(location[:-1]) for details, location in complaints if not _is_of_key(details)}
    for details, location in complaints:
        if _is_of_key(details) and tuple(location[:-1]) in with_values:
            continue
        key = ".".join(location)
        rank = _rank(details)
        if key not in found or rank > found[key][0]:  # of a union's branches, the most informative
            found[key] = rank, _problem(details, location, model)
    # A mapping with a wrong value is also complained about as a whole, since it is not the number it might have been.
    groups = {group for key in found for group in accumulate(key.split(".")[:-1], "{}.{}".format)}
    return [problem for key, (rank, problem) in found.items() if key not in groups or rank == _OWN_WORDS]


def first_error(error: ValidationError) -> str:
    """The first complaint as one line of bounded length, `field: message`."""
    return str(problems(error)[0])


def nearest(key: str, known: Sequence[str]) -> list[str]:
    """Those of the known dotted keys that `key` was probably meant to be, the likeliest first; none when in doubt.

    The right name in another group comes first, then its parts (`lr` for `lr_encoder`), then its spelling.
    """
    group, _, name = key.replace("-", "_").lower().rpartition(".")
    name = _ELSEWHERE_CALLED.get(name, name)
    if name in known:
        return [name]
    last = {one: one.rpartition(".")[2] for one in known}
    here = [one for one in known if one.rpartition(".")[0] == group]
    if same := [one for one in here if last[one] == name] or [one for one in known if last[one] == name]:
        return same[:_HINTS]
    for place, cutoff in ((here, 0.72), (known, 0.75)):
        for part in (lambda one: last[one].startswith(f"{name}_"), lambda one: last[one].endswith(f"_{name}")):
            if parts := list(filter(part, place)):
                return parts[:_HINTS]
        if words := difflib.get_close_matches(name, {last[one] for one in place}, n=1, cutoff=cutoff):
            return [one for one in place if last[one] == words[0]][:_HINTS]
    return difflib.get_close_matches(key, known, n=1, cutoff=0.75)


def did_you_mean(candidates: Sequence[str]) -> str:
    """`; did you mean a or b?`, or nothing."""
    return f"; did you mean {_listed(candidates)}?" if candidates else ""


def known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of settings, groups and those of all branches of unions included, each once."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        for inner in groups_of(field):
            keys += known_keys(inner, f"{prefix}{name}.")
    return list(dict.fromkeys(keys))


def shown(value: object) -> str:
    """A value as part of a line."""
    return f"'{short(value)}'" if isinstance(value, str) else short(_plainly(value))


def short(text: object) -> str:
    """Text of bounded length, on one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def _plainly(value: object) -> object:
    """The value as YAML writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else value


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def groups_of(field: FieldInfo) -> list[type[BaseModel]]:
    """Every settings class that a field may hold; an empty list for a field that is not a group of settings."""
    chosen = [kind for mark in field.metadata if hasattr(mark, "kinds") for kind in mark.kinds()]
    return chosen or list(_models(field.annotation))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, UnionType):
        for inner in get_args(annotation):
            yield from _models(inner)


def _location(details: ErrorDetails, values: object) -> list[str]:
    """The parts of a key that stand in the values: neither names of branches, nor places in a list."""
    parts, kept, at = details["loc"], [], values
    for number, part in enumerate(parts):
        inside = isinstance(at, dict) and part in at
        if isinstance(at, list | tuple):
            if isinstance(part, int) and part < len(at):
                at = at[part]
            continue
        if inside or values is None or (details["type"] == "missing" and number == len(parts) - 1):
            kept.append(short(part))
            at = at[part] if inside else None  # type: ignore[index]
    return kept


def _is_of_key(details: ErrorDetails) -> bool:
    """Whether it is a key of a mapping that is wrong."""
    return details["loc"][-1:] == ("[key]",)


_OWN_WORDS = 3


def _rank(details: ErrorDetails) -> int:
    """How informative a complaint is: our own messages most, that a number is not a mapping least."""
    kind, is_mapping = details["type"], isinstance(details["input"], dict)
    if kind == "value_error":
        return _OWN_WORDS
    return 2 if (kind == "dict_type") == is_mapping else 1


def _problem(details: ErrorDetails, location: list[str], model: type[BaseModel] | None) -> Problem:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    key = short(".".join(location))
    if kind == "extra_forbidden":
        return Problem(key, f"unknown key {key}{_hint(key, value, model)}", whole=True)
    if kind == "missing":
        return Problem(key, f"{key} is not set", whole=True)
    if kind == "union_tag_not_found":
        return Problem(f"{key}.name", f"{key}.name is not set", whole=True)
    if kind == "union_tag_invalid":
        names = [name.strip(" '") for name in str(context["expected_tags"]).split(",")]
        tag = value.get("name") if isinstance(value, dict) else value
        return Problem(f"{key}.name", not_one_of(tag, names))
    if kind == "literal_error":
        names = [name.strip(" '") for name in str(context["expected"]).replace(" or ", ", ").split(",")]
        return Problem(key, not_one_of(value, names))
    said = short(details["msg"]).removeprefix("Value error, ")
    message = _WORDS[kind].format(value=shown(value), number=short(value), **context) if kind in _WORDS else said
    return Problem(key, f"as a key, {message}" if _is_of_key(details) else message)


_NUMBER = "a number is needed, not {value}"
_INTEGER = "a whole number is needed, not {value}"
_BOOL = "true or false is needed, not {value}"
_GROUP = "a group of settings is needed (key: value), not {value}"
_LIST = "a list is needed ([a, b]), not {value}"

_WORDS = {
    "int_parsing": _INTEGER,
    "int_type": _INTEGER,
    "int_from_float": _INTEGER,
    "int_parsing_size": "{number} is too large",
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "finite_number": "a finite number is needed, not {number}",
    "bool_parsing": _BOOL,
    "bool_type": _BOOL,
    "string_type": "text is needed, not {value}; put text that looks like something else in quotes",
    "string_too_short": "it is empty",
    "path_type": "a path is needed, not {value}",
    "dict_type": _GROUP,
    "model_type": _GROUP,
    "model_attributes_type": _GROUP,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "greater_than": "must be greater than {gt}, not {number}",
    "greater_than_equal": "must be at least {ge}, not {number}",
    "less_than": "must be less than {lt}, not {number}",
    "less_than_equal": "must be at most {le}, not {number}",
}
"""By pydantic's name of an error."""


def not_one_of(value: object, names: list[str]) -> str:
    """The message that a value is not one of `names`, with the nearest one."""
    if value is None:
        return f"no value is given; choose one of: {', '.join(names)}"
    near = difflib.get_close_matches(str(value).lower(), names, n=1)
    return f"{shown(value)} is not one of: {', '.join(names)}{did_you_mean(near)}"


def _hint(key: str, value: object, model: type[BaseModel] | None) -> str:
    if model is None:
        return ""
    known = known_keys(model)
    if key in known:  # as it would be given on a command line
        group, _, name = key.rpartition(".")
        return f" of that name; in a file it is written as `{group}: {{{name}: ...}}`"
    candidates = nearest(key, known)
    if not candidates and isinstance(value, dict) and value:  # a group that does not exist, with a key that may
        candidates = nearest(f"{key}.{next(iter(value))}", known)
    return did_you_mean(candidates)
