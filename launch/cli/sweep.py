"""`sivae sweep` and `sivae sweep-table`: many runs from one file, and what came of them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from launch.cli.errors import one_line_errors
from launch.cli.resources import LOCAL, Cluster, Resources, asked_for, with_resources


@with_resources
def sweep(
    file: Annotated[Path, typer.Argument(help="A YAML file with config, overrides, and a grid or runs.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the runs live; runs/FILE by default.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Tasks at once.")] = 8,
    runs_per_task: Annotated[int, typer.Option(min=1, help="Small runs that a task does one after the other.")] = 1,
    cluster: Cluster = "auto",
    resources: Resources = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the runs; submit nothing.")] = False,
) -> None:
    """Train every run of a grid or list, each in a directory of its own. Run it again to continue those that ended."""
    with one_line_errors():
        from launch.cli.train import check
        from launch.jobs import states_of
        from launch.sweep import INDEX, assignments, load_sweep, run_folder
        from sivae_dist.config import load_config
        from sivae_dist.progress import saved_images
        from sivae_dist.run import RunDirectory

        wanted = asked_for(cluster, resources)
        if cluster == LOCAL and runs_per_task > 1:
            raise ValueError("--runs-per-task is for tasks of job arrays: leave it out with --cluster local")
        described = load_sweep(file)
        place = folder or Path("runs") / file.stem
        common = [*described.overrides, *(overrides or [])]
        points = list(described.points())
        prepared = [load_config(described.config, [*common, *assignments(point)]) for point in points]
        schedules = [
            check(settings, wanted.processes) for settings in prepared
        ]  # all of them before the first is begun
        runs = [RunDirectory(run_folder(place, number, point)) for number, point in enumerate(points)]
        if dry_run:
            for run, schedule in zip(runs, schedules, strict=True):
                typer.echo(f"{run.path}: {schedule.end:,} images")
            return
        index = [{"run": run.path.name, **point} for run, point in zip(runs, points, strict=True)]
        paths, left = [], []
        states = states_of([run.path for run in runs], certain=True)
        for run, settings, schedule, state in zip(runs, prepared, schedules, states, strict=True):
            if state.is_alive or (state.name == "finished" and saved_images(run.path) >= schedule.end):
                continue
            run.open(settings, schedule.train_samples)
            paths.append(run.path)
            left.append(schedule.end)
        if not paths:
            raise ValueError(f"all runs in {place} have finished, or have a job")
        (place / INDEX).write_text(json.dumps(index, indent=1))
        if cluster == LOCAL:
            from launch.background import submit_all

            jobs = submit_all(place, paths, left, wanted, parallel)
        else:
            from launch.sweep import submit

            jobs = submit(place, paths, left, file.stem, wanted, runs_per_task, parallel)
        typer.echo(f"{len(paths)} runs in {place}, jobs {', '.join(jobs)} (sivae sweep-table {place})")


def sweep_table(
    folder: Annotated[Path, typer.Argument(help="The folder of a sweep.")],
    metric: Annotated[
        str, typer.Option(help="To sort by: a value of metrics.jsonl, or evaluation/NAME.")
    ] = "reconstruction/per_value",
    largest: Annotated[bool, typer.Option("--largest", help="The largest value first.")] = False,
) -> None:
    """List the runs of a sweep, the best first."""
    with one_line_errors():
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table

        from launch.jobs import states_of
        from launch.sweep import INDEX

        if not (folder / INDEX).is_file():
            raise ValueError(f"{folder} is no folder of a sweep: it has no {INDEX}")
        points: list[dict[str, Any]] = json.loads((folder / INDEX).read_text())
        keys = list(dict.fromkeys(key for point in points for key in point if key != "run"))
        states = states_of([folder / point["run"] for point in points])
        rows = [
            (_value(folder / point["run"], metric), point, state.name)
            for point, state in zip(points, states, strict=True)
        ]
        sign = -1 if largest else 1
        rows.sort(key=lambda row: (row[0] is None, sign * (row[0] or 0)))
        table = Table("run", *keys, metric, "state", box=SIMPLE)
        for value, point, state in rows:
            cells = [str(point.get(key, "")) for key in keys]
            table.add_row(point["run"].split("-")[0], *cells, "" if value is None else f"{value:.6g}", state)
        Console().print(table)


def _value(run: Path, metric: str) -> float | None:
    """The newest value that a run has of a metric."""
    from launch.cli.jobs import last_row

    name = metric.removeprefix("evaluation/")
    if name != metric:
        found = last_row(run / "evaluation.jsonl", lambda row: row.get("metric") == name)
        return None if found is None else float(found["value"])
    found = last_row(run / "metrics.jsonl", lambda row: metric in row)
    return None if found is None else float(found[metric])
