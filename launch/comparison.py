"""Runs of a sweep compared over two of its keys: the numbers of a heat map."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from data_pipelines.problems import did_you_mean, nearest
from launch.sweep import rounded, short_keys
from sivae_dist.use.figures.heat_map import Cell, HeatMap, Panel

SEED = "seed"
"""The key over whose values runs are averaged."""


_NAMED = 12
"""Runs that a picture names."""


class Measured(NamedTuple):
    """A run of a sweep and its value of a metric."""

    number: str
    """The first part of its name."""
    point: dict[str, Any]
    """Its settings by dotted key."""
    value: float | None
    state: str
    """As of `State.name`."""


@dataclass(frozen=True)
class Axis:
    """A key of a sweep, or the quotient of two, along which runs are laid out."""

    label: str
    key: str
    divisor: str | None = None

    def at(self, point: dict[str, Any]) -> Any:
        """A run's value; None when it has none, or when it is the quotient of anything but numbers."""
        value = point.get(self.key)
        if self.divisor is None:
            return value
        try:
            return rounded(value / point[self.divisor])
        except (KeyError, TypeError, ZeroDivisionError):
            return None


@dataclass(frozen=True)
class Comparison:
    drawing: HeatMap
    averaged: bool
    """Whether a value is the mean of several runs that differ in their seeds alone."""
    over: list[str]
    """Keys that differ between the runs of a cell, which has the best value of them."""
    unfinished: list[Measured]
    """Runs without a value, or which may still get another."""
    left_out: list[Measured]
    """Runs that lack the key of an axis."""

    def meaning(self, short: dict[str, str]) -> str:
        """How a cell's value comes from its runs; empty when each has one run."""
        parts = ["mean over seeds"] if self.averaged else []
        if self.over:
            parts.append(f"best over {', '.join(short[key] for key in self.over)}")
        return "".join(f", {part}" for part in parts)

    def footnote(self) -> str:
        """The runs because of which cells are hatched, as far as there is room."""
        if not self.unfinished:
            return ""
        names = ", ".join(f"{run.number} {run.state}" for run in self.unfinished[:_NAMED])
        more = len(self.unfinished) - _NAMED
        return f"Hatched, as runs have no final value: {names}{f' and {more} more' if more > 0 else ''}"

    def best_cell(self) -> str:
        """The best value and where it stands."""
        drawing, best = self.drawing, self.drawing.best()
        assert best is not None
        panel, (row, column) = best
        place = [f"{drawing.row_key} = {drawing.rows[row]}", f"{drawing.column_key} = {drawing.columns[column]}"]
        if title := drawing.panels[panel].title:
            place.append(title)
        return f"best {drawing.panels[panel].cells[row, column].value:.6g} at {', '.join(place)}"

    def remarks(self, axes: Sequence[Axis]) -> list[str]:
        """What the picture cannot tell: every run without a final value, and every run that it leaves out."""
        lines = []
        if self.unfinished:
            lines.append(f"no final value: {', '.join(f'{run.number} {run.state}' for run in self.unfinished)}")
        if self.left_out:
            keys = " or ".join(one.label for one in axes)
            lines.append(f"left out, without {keys}: {', '.join(run.number for run in self.left_out)}")
        return lines


def axis(text: str, points: Sequence[dict[str, Any]]) -> Axis:
    """`beta_kl`, `objective.beta_kl` or `beta_neg/beta_kl`, of keys of the sweep, also of those with one value only.

    ValueError when there is no such key.
    """
    keys = dict.fromkeys(key for point in points for key in point)
    varying = short_keys(list(points))
    names = {key: key.rpartition(".")[2] for key in keys} | varying
    known = {names[key]: key for key in sorted(keys, key=varying.__contains__)}  # of equal names, one that differs
    known |= {key: key for key in keys}
    parts = text.split("/")
    for part in parts:
        if part not in known:
            raise ValueError(f"{part} is no key of this sweep{did_you_mean(nearest(part, list(keys)))}")
    if len(parts) > 2:
        raise ValueError(f"{text}: a quotient has two keys, as in {parts[0]}/{parts[1]}")
    return Axis("/".join(names[known[part]] for part in parts), *(known[part] for part in parts))


def usual_axes(
    rows: str | None, columns: str | None, panels: str | None, points: Sequence[dict[str, Any]]
) -> list[Axis]:
    """The axes of rows, columns and, if asked for, panels. By default the first keys that differ between runs,
    except the seed. ValueError when there are too few."""
    asked = {"rows": rows, "columns": columns, "panels": panels}
    given = {name: axis(text, points) for name, text in asked.items() if text}
    if len({(one.key, one.divisor) for one in given.values()}) < len(given):
        raise ValueError("rows, columns and panels must be of different keys")
    used = {key for one in given.values() for key in (one.key, one.divisor)}
    varying = short_keys(list(points))
    free = iter([key for key in varying if key not in used and key != SEED])
    for name in ("rows", "columns"):
        if name not in given:
            if (key := next(free, None)) is None:
                raise ValueError(
                    "a heat map needs two keys that differ between runs, besides the seed: give --rows and --columns; "
                    f"these differ: {', '.join(varying.values()) or 'none'}"
                )
            given[name] = axis(key, points)
    return [given[name] for name in ("rows", "columns", "panels") if name in given]


def compare(runs: Sequence[Measured], axes: Sequence[Axis], largest: bool) -> Comparison:
    """Lays runs out over rows, columns and, if there is a third axis, panels.

    A setting's value is the mean over its seeds, once all of them have one; a cell's is the best of its settings: the
    smallest, or the `largest`.
    """
    placed = [(run, tuple(one.at(run.point) for one in axes)) for run in runs]
    left_out = [run for run, place in placed if None in place]
    inside = [(run, place) for run, place in placed if None not in place]
    ticks = [_in_order([place[number] for _, place in inside]) for number in range(len(axes))]
    groups: dict[tuple[int, ...], list[Measured]] = {}
    for run, place in inside:
        groups.setdefault(tuple(tick.index(value) for tick, value in zip(ticks, place, strict=True)), []).append(run)
    panels = [Panel(f"{axes[2].label} = {_text(value)}", {}) for value in ticks[2]] if axes[2:] else [Panel("", {})]
    for (row, column, *panel), group in groups.items():
        panels[panel[0] if panel else 0].cells[row, column] = _cell(group, largest)
    labels = [[_text(value) for value in tick] for tick in ticks]
    drawing = HeatMap(axes[0].label, labels[0], axes[1].label, labels[1], panels, largest)
    settings = [_settings(group) for group in groups.values()]
    return Comparison(
        drawing,
        averaged=any(len(same) > 1 for one in settings for same in one.values()),
        over=_differing(list(groups.values())),
        unfinished=[run for run, _ in inside if not _is_settled(run)],
        left_out=left_out,
    )


def _settings(group: list[Measured]) -> dict[str, list[Measured]]:
    """Runs that differ in their seeds alone, by what they have in common."""
    found: dict[str, list[Measured]] = {}
    for run in group:
        common = {key: value for key, value in run.point.items() if key != SEED}
        found.setdefault(json.dumps(common, sort_keys=True), []).append(run)
    return found


def _cell(group: list[Measured], largest: bool) -> Cell:
    whole = [same for same in _settings(group).values() if all(map(_has_value, same))]
    means = [fmean(run.value for run in same if run.value is not None) for same in whole]
    best = (max if largest else min)(means) if means else None
    note = ""
    if best is None:
        count = sum(map(_has_value, group))
        note = f"{group[0].number}\n{group[0].state}" if len(group) == 1 else f"{count} of\n{len(group)} runs"
    return Cell(best, all(map(_is_settled, group)), note)


def _has_value(run: Measured) -> bool:
    return run.value is not None and math.isfinite(run.value)


def _is_settled(run: Measured) -> bool:
    return _has_value(run) and run.state == "finished"


def _differing(groups: list[list[Measured]]) -> list[str]:
    """The keys, except the seed, that differ within a group."""
    keys = dict.fromkeys(key for group in groups for run in group for key in run.point if key != SEED)
    return [
        key
        for key in keys
        if any(len({json.dumps(run.point.get(key), sort_keys=True) for run in group}) > 1 for group in groups)
    ]


def _in_order(values: list[Any]) -> list[Any]:
    """Each value once: numbers by size, everything else as it comes."""
    once: list[Any] = []
    for value in values:
        if value not in once:
            once.append(value)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in once)
    return sorted(once) if numbers else once


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"  # a quotient of 3.0 is 3
    return value if isinstance(value, str) else json.dumps(value)
