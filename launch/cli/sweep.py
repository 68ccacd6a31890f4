"""`sivae sweep` and `sivae sweep-table`: many runs from one file, and what came of them."""

import difflib
import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from launch.cli.errors import one_line_errors
from launch.cli.resources import LOCAL, Cluster, Resources, asked_for, can_submit, on_device, with_resources
from sivae_dist.process.output import outlast_watchers
from sivae_dist.run.atomic import write_text
from sivae_dist.run.directory import RunDirectory, SweepFolder
from sivae_dist.run.jsonl import last_row


@with_resources
def sweep(
    file: Annotated[Path, typer.Argument(help="A YAML file with config, overrides, and a grid or runs.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the runs live; runs/FILE by default.")] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Tasks at once; 8, or one per GPU with --cluster local.")
    ] = None,
    runs_per_task: Annotated[int, typer.Option(min=1, help="Small runs that a task does one after the other.")] = 1,
    cluster: Cluster = "auto",
    resources: Resources = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the runs; submit nothing.")] = False,
) -> None:
    """Train every run of a grid or list, each in a directory of its own. Run it again to continue those that ended."""
    with one_line_errors():
        outlast_watchers()
        from launch.clusters.slurm.settings import PARALLEL
        from launch.jobs import states_of
        from launch.plan import preflight, untrained_keys
        from launch.record import load_index
        from launch.sweep import assignments, load_sweep, run_names
        from sivae_dist.config.opening import prepare_run
        from sivae_dist.config.run_settings import load_config
        from sivae_dist.run.progress import saved_images

        wanted = asked_for(cluster, resources)
        if cluster == LOCAL and runs_per_task > 1:
            raise ValueError("--runs-per-task is for tasks of job arrays: leave it out with --cluster local")
        described = load_sweep(file)
        place = folder or Path("runs") / file.stem
        common = [*described.overrides, *(overrides or [])]
        points = list(described.points())
        before = load_index(place)
        names = run_names(points, before)
        prepared, plans = [], []
        for given in ([*common, *assignments(point)] for point in points):  # all of them before the first is begun
            settings = on_device(load_config(described.config, given), cluster, wanted)
            untrained = untrained_keys(described.config, given, settings)
            prepared.append(settings)
            plans.append(preflight(settings, wanted.processes, here=cluster == LOCAL, untrained=untrained))
        for warning in dict.fromkeys(line for plan in plans for line in plan.warnings):
            typer.echo(f"warning: {warning}")
        schedules = [plan.schedule for plan in plans]
        runs = [RunDirectory(place / name) for name in names]
        if dry_run:
            for run, schedule in zip(runs, schedules, strict=True):
                typer.echo(f"{run.path}: {schedule.end:,} images")
            raise typer.Exit(0 if cluster == LOCAL or can_submit() else 1)
        if cluster != LOCAL:
            from launch.clusters.slurm.batch import check_sbatch

            check_sbatch()
        index = {row["run"]: row for row in before}  # of which this file may have some no longer
        index |= {name: {"run": name, **point} for name, point in zip(names, points, strict=True)}
        paths, left = [], []
        states = states_of([run.path for run in runs], certain=True)
        for run, settings, schedule, state in zip(runs, prepared, schedules, states, strict=True):
            if state.is_alive or (state.name == "finished" and saved_images(run.path) >= schedule.end):
                continue
            prepare_run(run, settings, schedule.train_samples)
            paths.append(run.path)
            left.append(schedule.end)
        if not paths:
            raise ValueError(f"all runs in {place} have finished, or have a job")
        write_text(SweepFolder(place).index, json.dumps([index[name] for name in sorted(index)], indent=1))
        if cluster == LOCAL:
            from launch.clusters.local.supervisor import submit_all

            jobs = submit_all(place, paths, left, wanted, parallel)
        else:
            from launch.sweep import submit

            jobs = submit(place, paths, left, file.stem, wanted, runs_per_task, parallel or PARALLEL)
        count = f"{len(paths)} run{'s' if len(paths) > 1 else ''}"
        typer.echo(f"{count} in {place}, job {', '.join(jobs)} (sivae status {place}, sivae sweep-table {place})")


def sweep_table(
    folder: Annotated[Path, typer.Argument(help="The folder of a sweep.")],
    metric: Annotated[
        str, typer.Option(help="To sort by: a value of metrics.jsonl, or evaluation/NAME.")
    ] = "reconstruction/per_value",
    largest: Annotated[bool, typer.Option("--largest", help="The largest value first.")] = False,
) -> None:
    """List the runs of a sweep, the best first."""
    with one_line_errors():
        from launch.cli.tables import TableRow, show
        from launch.jobs import states_of
        from launch.record import load_index
        from launch.sweep import short_keys
        from sivae_dist.settings import flatten

        index = load_index(folder)
        if not index:
            raise ValueError(f"{folder} is no folder of a sweep: it has no {SweepFolder(folder).index.name}")
        runs = [folder / row["run"] for row in index]
        points = [flatten({key: row[key] for key in row if key != "run"}) for row in index]
        values = [_value(run, metric) for run in runs]
        if all(value is None for value in values):
            _check_known(metric, runs)
        short = short_keys(points)
        sign = -1 if largest else 1
        order = sorted(range(len(runs)), key=lambda at: (values[at] is None, sign * (values[at] or 0)))
        states = states_of(runs)
        rows = [
            TableRow(
                runs[at].name.partition("-")[0],
                states[at].name,
                ["" if values[at] is None else f"{values[at]:.6g}", *(_cell(points[at].get(key)) for key in short)],
            )
            for at in order
        ]
        show([metric, *short.values()], rows)


def _cell(value: Any) -> str:
    return "" if value is None else str(value) if isinstance(value, str) else json.dumps(value)


def _check_known(metric: str, runs: list[Path]) -> None:
    """ValueError for a metric that no run has although there are others."""
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
    """The newest value that a run has of a metric."""
    name = metric.removeprefix("evaluation/")
    if name != metric:
        found = last_row(RunDirectory(run).evaluation, lambda row: row.get("metric") == name)
        value = None if found is None else float(found["value"])
    else:
        found = last_row(RunDirectory(run).metrics, lambda row: metric in row)
        value = None if found is None else float(found[metric])
    return None if value is None or math.isnan(value) else value
