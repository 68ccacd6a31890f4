"""YAML as its users mean it: the core schema of YAML 1.2, every key once, and errors that name the line.

YAML 1.1, which PyYAML reads, takes `no` for false, `010` for 8, `1:30` for 90 and `1e-4` for text.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_pipelines.settings import WrittenFloat, WrittenInt

_MERGE = "tag:yaml.org,2002:merge"

_LONGEST = 60
"""Characters of a line that are quoted."""

_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*\.[0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    _MERGE: (r"<<", ["<"]),
}
"""By tag: what a plain scalar of it looks like, and how it begins. Underscores between digits are of YAML 1.1."""


class _Reader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def integer(self, node: yaml.ScalarNode) -> WrittenInt:
        text = str(self.construct_scalar(node))
        digits = text.replace("_", "")
        base = {"0o": 8, "0x": 16}.get(digits[:2], 10)
        number = WrittenInt(digits, base)
        number.text = text
        return number

    def fraction(self, node: yaml.ScalarNode) -> WrittenFloat:
        text = str(self.construct_scalar(node))
        number = WrittenFloat(re.sub(r"\.(?=[in])", "", text.lower().replace("_", "")))
        number.text = text
        return number


class _Writer(yaml.SafeDumper):
    """Puts text in quotes that either version of YAML would take for something else."""

    yaml_implicit_resolvers: dict[str, Any] = {
        first: list(kinds) for first, kinds in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


for _tag, (_pattern, _first) in _SCALARS.items():
    for _kind in (_Reader, _Writer):
        _kind.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)
_Reader.add_constructor("tag:yaml.org,2002:int", _Reader.integer)
_Reader.add_constructor("tag:yaml.org,2002:float", _Reader.fraction)


class _TextReader(_Reader):
    """Takes every plain scalar for text."""

    yaml_implicit_resolvers: dict[str, Any] = {"<": [(_MERGE, re.compile("^<<$"))]}


def parse(text: str, origin: str, *, as_text: bool = False) -> Any:
    """The content of a YAML text. Numbers remember how they were written (data_pipelines.settings.as_meant).

    `origin` begins every line of the ValueError: for what is not valid, and for keys that are given twice.
    `as_text` leaves all scalars as they were written.
    """
    loader = (_TextReader if as_text else _Reader)(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if twice := list(_twice(node, text.splitlines(), "", set())):
            raise ValueError("\n".join(f"{origin}: {problem}" for problem in twice))
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(filter(None, (error.context, error.problem)))
        if "'\\t'" in what:
            what = "a tab; write spaces instead"
        where = f" in line {mark.line + 1}" if mark is not None and "\n" in text.strip() else ""
        raise ValueError(f"{origin} is not valid YAML{where}: {what}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{origin} is nested too deeply") from None
    finally:
        loader.dispose()


def read_yaml(path: Path, *, as_text: bool = False) -> dict[str, Any]:
    """The settings in a YAML file. ValueError with one line per problem, which begins with the file's name."""
    if path.is_dir():
        raise ValueError(f"{path} is a directory, not a YAML file")
    try:
        text = _decoded(path.read_bytes(), path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    values = parse(text, str(path), as_text=as_text)
    if values is None:
        raise ValueError(f"{path} is empty: it holds no settings")
    if not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else "one value"
        raise ValueError(f"{path} holds {kind} instead of settings; they are written as `key: value`, one per line")
    return values


def dump(values: dict[str, Any]) -> str:
    """Plain values as YAML that any reader of it understands alike."""
    return yaml.dump(values, Dumper=_Writer, sort_keys=False)


def _decoded(content: bytes, path: Path) -> str:
    """With or without a mark of its byte order, as editors on Windows put it."""
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path} is not UTF-8 text (line {line}); save it as UTF-8") from None


def _twice(node: yaml.Node, lines: Sequence[str], place: str, seen: set[int]) -> Iterator[str]:
    """A message for each key that occurs twice in a mapping, at any depth; content with an anchor is checked once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            yield from _twice(inner, lines, place, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
        dotted, line = f"{place}{name}", key.start_mark.line
        if name in first and key.tag != _MERGE:
            both = " and ".join(f"line {k + 1} ({lines[k].rstrip()[:_LONGEST]})" for k in (first[name], line))
            yield f"{dotted} is given twice{f', in {both}' if line != first[name] else ''}; keep one"
        first.setdefault(name, line)
        yield from _twice(value, lines, f"{dotted}.", seen)
