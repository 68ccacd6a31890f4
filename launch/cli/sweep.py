"""`sivae sweep` and `sivae sweep-table`: train many runs from one file, and compare them."""

import difflib
import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import Overrides, expanded
from launch.cli.resources import ClusterName, Given, asked_for, with_resources
from sivae_dist.process import startup
from sivae_dist.process.output import outlast_watchers
from sivae_dist.run.atomic import write_text
from sivae_dist.run.directory import RunDirectory, SweepFolder
from sivae_dist.run.jsonl import last_row
from sivae_dist.run.terms import RECONSTRUCTION


@with_resources
def sweep(
    file: Annotated[
        Path, typer.Argument(help="A YAML file with config, overrides, and grid or runs; or the name of one of ours.")
    ],
    overrides: Overrides = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of the runs; runs/FILE by default.")] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Number of concurrent tasks; 8, or one per GPU with --cluster local.")
    ] = None,
    runs_per_task: Annotated[int, typer.Option(min=1, help="Number of runs that each task trains in turn.")] = 1,
    cluster: ClusterName = "auto",
    resources: Given = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the runs; submit nothing.")] = False,
) -> None:
    """Train every run of a grid or list, each in its own directory. To resume the runs that stopped, run it again."""
    with one_line_errors():
        outlast_watchers()
        from launch.clusters import Prepared
        from launch.plan import cluster_checks, on_device, preflight, states_before, untrained_keys
        from launch.record import load_index
        from launch.sweep import assignments, load_sweep, run_names
        from sivae_dist.config.names import run_name, shipped
        from sivae_dist.config.opening import prepare_run
        from sivae_dist.config.run_settings import load_config
        from sivae_dist.run.progress import saved_images

        file = file if file.exists() else shipped(file) or file
        described = load_sweep(file)
        place = folder or Path("runs") / run_name(file)
        points = list(described.points())
        before = load_index(place)
        names = run_names(points, before)
        given = [[*described.overrides, *(overrides or []), *assignments(point)] for point in points]
        loaded = [load_config(described.config, one) for one in given]  # which may import a cluster of the user's own
        where, asked = asked_for(cluster, resources)
        if runs_per_task > 1 and not where.has_tasks:
            raise ValueError(f"--runs-per-task is for tasks of job arrays: leave it out with --cluster {where.kind}")
        prepared = [on_device(settings, asked) for settings in loaded]
        plans = []
        for settings, one in zip(prepared, given, strict=True):  # all of them before the first is begun
            untrained = untrained_keys(described.config, one, settings)
            plans.append(preflight(settings, asked.processes, cluster=where, untrained=untrained))
        for warning in dict.fromkeys(line for plan in plans for line in plan.warnings):
            typer.echo(f"warning: {warning}")
        runs = [RunDirectory(place / name) for name in names]
        if dry_run:
            for run, plan in zip(runs, plans, strict=True):
                typer.echo(f"{run.path}: {plan.schedule.end:,} images")
            failed = list(cluster_checks(where))
            for check in failed:
                typer.echo(check)
            raise typer.Exit(1 if failed else 0)
        states = states_before(where, [run.path for run in runs])
        index = {row["run"]: row for row in before}  # may include runs that this file no longer has
        index |= {name: {"run": name, **point} for name, point in zip(names, points, strict=True)}
        left = []
        for run, plan, state in zip(runs, plans, states, strict=True):
            if state.is_alive or (state.name == "finished" and saved_images(run.path) >= plan.schedule.end):
                continue
            prepare_run(run, plan.settings, plan.schedule.train_samples)
            left.append(Prepared(run.path, plan.schedule.end))
        if not left:
            raise ValueError(f"all runs in {place} have finished or already have a job")
        write_text(SweepFolder(place).index, json.dumps([index[name] for name in sorted(index)], indent=1))
        jobs = where.sweep(place, left, file.stem, asked, parallel, runs_per_task)
        count = f"{len(left)} run{'s' if len(left) > 1 else ''}"
        typer.echo(f"{count} in {place}, job {', '.join(jobs)} (sivae status {place}, sivae sweep-table {place})")


def sweep_table(
    folder: Annotated[Path, typer.Argument(help="The folder of a sweep.")],
    metric: Annotated[
        str, typer.Option(help="Sort by this value of metrics.jsonl, or evaluation/NAME.")
    ] = RECONSTRUCTION,
    largest: Annotated[bool, typer.Option("--largest", help="Put the largest value first.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw a heat map, as .png, .pdf or .svg.", callback=expanded),
    ] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="KEY", help="Of the heat map: a key, or KEY/KEY; the first by default.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="KEY", help="Of the heat map; the second key by default.")
    ] = None,
    panels: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="One heat map for each of its values, instead of the best over all."),
    ] = None,
) -> None:
    """List the runs of a sweep, best first, and draw a heat map of them."""
    with one_line_errors():
        from launch.cli.tables import TableRow, show
        from launch.jobs import states_of
        from launch.record import load_index
        from launch.sweep import short_keys
        from sivae_dist.settings import flatten

        if plot is None and (rows or columns or panels):
            raise ValueError("--rows, --columns and --panels are those of a heat map: give --plot FILE as well")
        index = load_index(folder)
        if not index:
            raise ValueError(f"{folder} is not the folder of a sweep: it has no {SweepFolder(folder).index.name}")
        runs = [folder / row["run"] for row in index]
        points = [flatten({key: row[key] for key in row if key != "run"}) for row in index]
        values = [_value(run, metric) for run in runs]
        if all(value is None for value in values):
            _check_known(metric, runs)
        short = short_keys(points)
        sign = -1 if largest else 1
        order = sorted(range(len(runs)), key=lambda at: (values[at] is None, sign * (values[at] or 0)))
        states = states_of(runs)
        lines = [
            TableRow(
                runs[at].name.partition("-")[0],
                states[at].name,
                ["" if values[at] is None else f"{values[at]:.6g}", *(_cell(points[at].get(key)) for key in short)],
            )
            for at in order
        ]
        measured = [
            (run.name.partition("-")[0], point, value, state.name)
            for run, point, value, state in zip(runs, points, values, states, strict=True)
        ]
        drawn = _heat_map(plot, folder, metric, measured, (rows, columns, panels), short, largest) if plot else []
        show([metric, *short.values()], lines)
        for line in drawn:
            typer.echo(line)


def _heat_map(
    plot: Path,
    folder: Path,
    metric: str,
    measured: list[tuple[str, dict[str, Any], float | None, str]],
    asked: tuple[str | None, str | None, str | None],
    short: dict[str, str],
    largest: bool,
) -> list[str]:
    """Draws it; returns what there is to say about it. ValueError before anything is drawn."""
    with startup.loading("matplotlib"):
        from launch.comparison import Measured, compare, usual_axes
        from sivae_dist.use.figures.files import check_out
        from sivae_dist.use.figures.heat_map import heat_map
        from sivae_dist.use.figures.plots import PLOTS

    check_out(plot, PLOTS)
    axes = usual_axes(*asked, [point for _, point, _, _ in measured])
    found = compare([Measured(*one) for one in measured], axes, largest)
    if found.drawing.best() is None:
        raise ValueError(f"no run has a value of {metric} yet, so there is nothing to draw")
    heat_map(found.drawing, plot, f"{folder.resolve().name}: {metric}{found.meaning(short)}", found.footnote())
    return [f"{plot}: {found.best_cell()}", *found.remarks(axes)]


def _cell(value: Any) -> str:
    return "" if value is None else str(value) if isinstance(value, str) else json.dumps(value)


def _check_known(metric: str, runs: list[Path]) -> None:
    """ValueError when no run has this metric although there are other metrics."""
    known: set[str] = set()
    for run in runs:
        known |= {key for key in last_row(RunDirectory(run).metrics) or {} if key != "images"}
        if row := last_row(RunDirectory(run).evaluation, lambda row: "metric" in row):
            known.add(f"evaluation/{row['metric']}")
    if known:
        near = difflib.get_close_matches(metric, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f": {', '.join(sorted(known))}"
        raise ValueError(f"no run has a value of {metric} yet{hint}")


def _value(run: Path, metric: str) -> float | None:
    """The latest value of a metric in a run."""
    name = metric.removeprefix("evaluation/")
    if name != metric:
        found = last_row(RunDirectory(run).evaluation, lambda row: row.get("metric") == name)
        value = None if found is None else float(found["value"])
    else:
        found = last_row(RunDirectory(run).metrics, lambda row: metric in row)
        value = None if found is None else float(found[metric])
    return None if value is None or math.isnan(value) else value
