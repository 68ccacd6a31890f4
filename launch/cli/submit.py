"""`sivae submit`: a run as a job of a cluster, or in the background of this machine."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import Imports, RunDir, assigned
from launch.cli.resources import LOCAL, Cluster, Resources, asked_for, can_submit, on_device, with_resources
from sivae_dist.process.output import outlast_watchers


@with_resources
def submit(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of one that comes with sivae.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    data: Annotated[str | None, typer.Option(help="A prepared data set: a directory, a URL, or pipe:COMMAND.")] = None,
    run_dir: RunDir = None,
    imports: Imports = None,
    cluster: Cluster = "auto",
    resources: Resources = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the batch script and check all that can be checked; submit nothing."),
    ] = False,
) -> None:
    """Train as a job: it survives preemption and time limits, and continues where it stood.

    To resume a run that has ended, submit it again with the same --run-dir.
    """
    with one_line_errors():
        outlast_watchers()
        from launch.plan import checks, preflight, untrained_keys
        from sivae_dist.config.opening import prepare_run
        from sivae_dist.config.run_settings import config_path, load_config, run_name
        from sivae_dist.run.directory import RunDirectory

        wanted = asked_for(cluster, resources)
        assignments = assigned(overrides, data, imports)
        settings = on_device(load_config(config, assignments), cluster, wanted)
        here, untrained = cluster == LOCAL, untrained_keys(config, assignments, settings)
        name = run_name(config_path(config))
        run = RunDirectory(run_dir or Path("runs") / name)
        if dry_run:
            outcomes = []
            if cluster != LOCAL:
                from launch.clusters.slurm.batch import make_executor

                place = RunDirectory(run.path.resolve())
                executor = make_executor(place.job_logs, place.path, name, wanted, place.code / "001")
                typer.echo(executor.script())
                outcomes.append(can_submit())
            for check in checks(settings, wanted.processes, run, here=here, untrained=untrained):
                typer.echo(f"{'ok    ' if check.fine else 'FAILED'} {check.name}: {check.detail}")
                outcomes.append(check.fine)
            raise typer.Exit(0 if all(outcomes) else 1)
        if cluster == LOCAL:
            from launch.clusters.local.supervisor import submit as hand_in
        else:
            from launch.clusters.slurm.batch import check_sbatch
            from launch.clusters.slurm.batch import submit as hand_in

            check_sbatch()
        from launch.jobs import states_of

        (state,) = states_of([run.path], certain=True)
        if state.is_alive:
            raise ValueError(f"{run.path} has a job already, {state}: cancel it first")
        plan = preflight(settings, wanted.processes, run, here=here, untrained=untrained)
        for warning in plan.warnings:
            typer.echo(f"warning: {warning}")
        for note in prepare_run(run, settings, plan.manifest.train):
            typer.echo(f"note: {note}")
        job = hand_in(run.path, plan.schedule.end, name, wanted)
        typer.echo(f"job {job}: {run.path} (sivae status {run.path}, sivae logs {run.path} -f)")
