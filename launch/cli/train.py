"""`sivae train`: one run on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import Config, Imports, Overrides, RunDir, assigned
from sivae_dist.process import startup
from sivae_dist.process.output import outlast_watchers
from sivae_dist.run.progress import saved_images


def train(
    config: Config,
    overrides: Overrides = None,
    data: Annotated[str | None, typer.Option(help="A prepared data set: a directory, a URL, or pipe:COMMAND.")] = None,
    run_dir: RunDir = None,
    nproc: Annotated[int, typer.Option(min=0, help="Number of processes; 0 = one per GPU, or one without a GPU.")] = 0,
    imports: Imports = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Resolve and check the settings and print the phases; do not train.")
    ] = False,
) -> None:
    """Train on this machine. To resume an interrupted run, run the same command again."""
    again = "interrupted: run the same command again to continue from the last checkpoint"
    with one_line_errors(again), startup.loading("PyTorch"):
        outlast_watchers()
        from launch.launcher import launch
        from launch.plan import preflight, show, untrained_keys
        from sivae_dist.config.names import config_path, run_name
        from sivae_dist.config.opening import prepare_run
        from sivae_dist.config.run_settings import load_config
        from sivae_dist.process.devices import default_processes
        from sivae_dist.run.directory import RunDirectory
        from sivae_dist.run.ends import STOPPED

        assignments = assigned(overrides, data, imports)
        settings = load_config(config, assignments)
        startup.doing("looking for GPUs")
        processes = nproc or default_processes(settings.device)
        run = RunDirectory(run_dir or Path("runs") / run_name(config_path(config)))
        untrained = untrained_keys(config, assignments, settings)
        plan = preflight(settings, processes, run, here=True, thorough=dry_run, untrained=untrained)
        if dry_run:
            show(plan, run)
            return
        for warning in plan.warnings:
            typer.echo(f"warning: {warning}")
        for note in prepare_run(run, plan.settings, plan.data.train):
            typer.echo(f"note: {note}")
        code = launch(run.path, processes)
    if code == STOPPED:
        done = "and saved" if saved_images(run.path) else "before the first checkpoint"
        typer.echo(f"stopped as asked, {done}: run the same command again to continue", err=True)
    if code:
        raise typer.Exit(code)
