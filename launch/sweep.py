"""Many runs from one file: a grid or a list of settings.

config: tiny                  # as `sivae train` takes it
overrides: [data.path=data/faces]
grid:                         # every combination
  objective.beta_neg: [64, 256]
  seed: [0, 1, 2]
runs:                         # and these
  - {objective.name: vae}
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data_pipelines.problems import problems
from sivae_dist.config.yaml_reading import read_yaml
from sivae_dist.settings import Settings, flatten

_LONGEST = 60
"""Maximum length of a run's name, not counting its number."""


class Sweep(Settings):
    config: str
    overrides: tuple[str, ...] = ()
    grid: dict[str, tuple[Any, ...]] = {}
    runs: tuple[dict[str, Any], ...] = ()

    def points(self) -> Iterator[dict[str, Any]]:
        """The settings of each run, on top of the common ones."""
        if self.grid:
            for values in itertools.product(*self.grid.values()):
                yield dict(zip(self.grid, values, strict=True))
        yield from self.runs


def load_sweep(path: Path) -> Sweep:
    """Raises ValueError with one line per problem."""
    values = read_yaml(path)
    try:
        sweep = Sweep.model_validate(values)
    except ValidationError as error:
        raise ValueError("\n".join(f"{path}: {problem}" for problem in problems(error, Sweep, values))) from None
    if not any(True for _ in sweep.points()):
        raise ValueError(f"{path} has neither a grid nor runs")
    return sweep


def assignments(point: dict[str, Any]) -> list[str]:
    """A point as overrides: `key=value`, with values in YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in point.items()]


def run_names(points: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[str]:
    """Names of the runs' directories: a unique number and the values that distinguish the run.

    `before`: the sweep's existing index; runs listed in it keep their names.
    """
    flat = [flatten(point) for point in points]
    known: dict[str, list[str]] = {}  # names by settings, which several runs may share
    for row in before:
        point = flatten({key: row[key] for key in row if key != "run"})
        known.setdefault(_as_text(point), []).append(row["run"])
    numbers = itertools.count(1 + max((int(row["run"].partition("-")[0]) for row in before), default=-1))
    short = short_keys(flat)
    names = []
    for point in flat:
        same = known.get(_as_text(point))
        names.append(same.pop(0) if same else f"{next(numbers):04d}-{_label(point, short)}".rstrip("-"))
    return names


def _as_text(point: dict[str, Any]) -> str:
    """A point as the index stores it: JSON turns keys that are numbers into strings."""
    return json.dumps(point, sort_keys=True)


def short_keys(points: list[dict[str, Any]]) -> dict[str, str]:
    """The keys that differ between runs, shortened to their last parts where these are unique."""
    keys = dict.fromkeys(key for point in points for key in point)
    varying = [key for key in keys if len({json.dumps(point.get(key)) for point in points}) > 1]
    last = Counter(key.rpartition(".")[2] for key in varying)
    return {key: key if last[key.rpartition(".")[2]] > 1 else key.rpartition(".")[2] for key in varying}


def _label(point: dict[str, Any], short: Mapping[str, Any]) -> str:
    """`beta_neg=64-seed=1`: short, and only of characters that are safe in every file system and shell."""
    label = ""
    for key, value in point.items():
        if key not in short:
            continue
        text = json.dumps(value) if isinstance(value, list | bool | None) else str(value).rstrip("/").rpartition("/")[2]
        text = re.sub(r"[^A-Za-z0-9._+=-]+", "_", f"{short[key]}={text}").strip("_")
        if len(label) + len(text) > _LONGEST:
            break  # the number makes the name unique
        label += f"-{text}" if label else text
    return label
