"""`sivae submit`: train as a job on a cluster, or in the background on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import Config, Imports, Overrides, RunDir, assigned
from launch.cli.resources import ClusterName, Given, asked_for, with_resources
from sivae_dist.process.output import outlast_watchers


@with_resources
def submit(
    config: Config,
    overrides: Overrides = None,
    data: Annotated[str | None, typer.Option(help="A prepared data set: a directory, a URL, or pipe:COMMAND.")] = None,
    run_dir: RunDir = None,
    imports: Imports = None,
    cluster: ClusterName = "auto",
    resources: Given = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the batch script and run all checks; submit nothing."),
    ] = False,
) -> None:
    """Train as a job that is requeued and resumes after preemption and time limits.

    To resume a run that has ended, submit it again with the same --run-dir.
    """
    with one_line_errors():
        outlast_watchers()
        from launch.clusters import Prepared
        from launch.plan import checks, on_device, preflight, untrained_keys
        from sivae_dist.config.names import config_path, run_name
        from sivae_dist.config.opening import prepare_run
        from sivae_dist.config.run_settings import load_config
        from sivae_dist.run.directory import RunDirectory

        assignments = assigned(overrides, data, imports)
        settings = load_config(config, assignments)  # which imports a cluster of the user's own
        where, asked = asked_for(cluster, resources)
        settings = on_device(settings, asked)
        untrained = untrained_keys(config, assignments, settings)
        name = run_name(config_path(config))
        run = RunDirectory(run_dir or Path("runs") / name)
        if dry_run:
            if script := where.script(run.path, name, asked):
                typer.echo(script)
            outcomes = []
            for check in checks(settings, asked.processes, run, cluster=where, untrained=untrained):
                typer.echo(check)
                outcomes.append(check.fine)
            raise typer.Exit(0 if all(outcomes) else 1)
        plan = preflight(settings, asked.processes, run, cluster=where, untrained=untrained)
        for warning in plan.warnings:
            typer.echo(f"warning: {warning}")
        for note in prepare_run(run, plan.settings, plan.data.train):
            typer.echo(f"note: {note}")
        job = where.submit(Prepared(run.path, plan.schedule.end), name, asked)
        typer.echo(f"job {job}: {run.path} (sivae status {run.path}, sivae logs {run.path} -f)")
