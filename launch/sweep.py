"""Many runs from one file: a grid or a list of settings.

config: tiny                  # as `sivae train` takes it
overrides: [data.path=data/faces]
grid:                         # every combination
  objective.beta_kl: [0.5, 1]
  objective.beta_neg: {times: [64, 256], of: objective.beta_kl}    # 32 and 128, or 64 and 256
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

from pydantic import ValidationError, model_validator

from data_pipelines.problems import did_you_mean, nearest, problems
from sivae_dist.config.yaml_reading import read_yaml
from sivae_dist.settings import Settings, flatten

_LONGEST = 60
"""Maximum length of a run's name, not counting its number."""


class Multiples(Settings):
    """Values of a key of a grid that depend on another key's: in each run, a multiple of that run's value."""

    times: tuple[float | int, ...]
    of: str
    """A key of the grid above this one, whose values are numbers."""


class Sweep(Settings):
    config: str
    overrides: tuple[str, ...] = ()
    grid: dict[str, tuple[Any, ...] | Multiples] = {}
    runs: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def _have_numbers_to_multiply(self) -> "Sweep":
        above: list[str] = []
        for key, values in self.grid.items():
            if isinstance(values, Multiples):
                if values.of not in above:
                    hint = did_you_mean(nearest(values.of, above))
                    raise ValueError(
                        f"grid.{key} is a multiple of {values.of}, which is no key of the grid above it{hint}"
                    )
                of = self.grid[values.of]
                wrong = [] if isinstance(of, Multiples) else [value for value in of if not _is_number(value)]
                if wrong:
                    raise ValueError(f"grid.{key} is a multiple of {values.of}, but {wrong[0]!r} is not a number")
            above.append(key)
        return self

    def points(self) -> Iterator[dict[str, Any]]:
        """The settings of each run, on top of the common ones."""
        if self.grid:
            choices = [values.times if isinstance(values, Multiples) else values for values in self.grid.values()]
            for chosen in itertools.product(*choices):
                yield self._resolved(dict(zip(self.grid, chosen, strict=True)))
        yield from self.runs

    def _resolved(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """A point whose factors have been multiplied, from the top down: one may be a multiple of a multiple."""
        point: dict[str, Any] = {}
        for key, value in chosen.items():
            given = self.grid[key]
            point[key] = rounded(value * point[given.of]) if isinstance(given, Multiples) else value
        return point


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def rounded(value: float) -> float:
    """Without the digits that binary fractions add: three times 0.1 is 0.3. A whole number stays one."""
    return value if isinstance(value, int) else float(f"{value:.12g}")


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
