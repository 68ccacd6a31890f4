"""`sivae submit`: a run as a job of a cluster, or in the background of this machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.cli.errors import one_line_errors

if TYPE_CHECKING:
    from launch.clusters import ClusterSettings

LOCAL = "local"

Cluster = Annotated[
    str,
    typer.Option(help="A file or name of configs/clusters; auto: found by SLURM's ClusterName; local: no cluster."),
]
Nodes = Annotated[int | None, typer.Option(min=1, help="Nodes.")]
Gpus = Annotated[int | None, typer.Option(min=0, help="GPUs a node, one process for each; 0 trains on CPUs.")]
Tasks = Annotated[int | None, typer.Option(min=1, help="Processes a node, where it is not one a GPU.")]
Cpus = Annotated[int | None, typer.Option(min=1, help="CPUs a process.")]
Mem = Annotated[str | None, typer.Option(help="Memory a node, like 64G.")]
Time = Annotated[str | None, typer.Option(help="Time limit: minutes, hh:mm:ss or days-hh:mm:ss.")]
Partition = Annotated[str | None, typer.Option()]
Account = Annotated[str | None, typer.Option()]
Qos = Annotated[str | None, typer.Option()]
Constraint = Annotated[str | None, typer.Option()]
Exclude = Annotated[str | None, typer.Option(help="Nodes not to use.")]
Image = Annotated[str | None, typer.Option(help="Container image, run as the cluster's settings say.")]
Setup = Annotated[list[str] | None, typer.Option(help='Shell command before the processes start: "module load cuda".')]


def resources(cluster: str, **options: Any) -> "ClusterSettings":
    """A cluster's settings with those options on top that were given. ValueError in one line a problem."""
    from launch.clusters import load_cluster

    given = {key: value for key, value in options.items() if value is not None}
    return load_cluster("auto" if cluster == LOCAL else cluster, given)


def submit(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of one that comes with sivae.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    data: Annotated[str | None, typer.Option(help="A prepared data set: a directory, a URL, or pipe:COMMAND.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run lives; runs/CONFIG by default.")] = None,
    cluster: Cluster = "auto",
    nodes: Nodes = None,
    gpus_per_node: Gpus = None,
    tasks_per_node: Tasks = None,
    cpus_per_task: Cpus = None,
    mem: Mem = None,
    time: Time = None,
    partition: Partition = None,
    account: Account = None,
    qos: Qos = None,
    constraint: Constraint = None,
    exclude: Exclude = None,
    container_image: Image = None,
    setup: Setup = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the batch script and check all that can be checked; submit nothing."),
    ] = False,
) -> None:
    """Train as a job: it survives preemption and time limits, and goes on where it stood.

    To resume a run that has ended, submit it again with the same --run-dir.
    """
    with one_line_errors():
        from launch.checks import checks
        from sivae_dist.config import config_path, load_config, run_name
        from sivae_dist.run import RunDirectory

        wanted = resources(
            cluster,
            nodes=nodes,
            gpus_per_node=gpus_per_node,
            tasks_per_node=tasks_per_node,
            cpus_per_task=cpus_per_task,
            mem=mem,
            time=time,
            partition=partition,
            account=account,
            qos=qos,
            constraint=constraint,
            exclude=exclude,
            container_image=container_image,
            setup=tuple(setup) if setup else None,
        )
        assignments = list(overrides or [])
        if data is not None:
            assignments.append(f"data.path={json.dumps(data)}")
        settings = load_config(config, assignments)
        name = run_name(config_path(config))
        run = RunDirectory(run_dir or Path("runs") / name)
        if dry_run:
            if cluster != LOCAL:
                from launch.slurm import make_executor

                place = run.path.resolve()
                executor = make_executor(place / "logs" / "jobs", place, name, wanted, place / "code" / "001")
                typer.echo(executor.script())
            outcomes = []
            for check in checks(settings, run.path, wanted.processes):
                typer.echo(f"{'ok    ' if check.fine else 'FAILED'} {check.name}: {check.detail}")
                outcomes.append(check.fine)
            raise typer.Exit(0 if all(outcomes) else 1)
        from launch.cli.train import check as check_run
        from launch.jobs import state_of

        if (state := state_of(run.path)).is_alive:
            raise ValueError(f"{run.path} has a job already, {state.name} {state.detail}: cancel it first")
        images = check_run(settings, wanted.processes)
        for key in run.open(settings):
            typer.echo(f"note: {key} differs from what this run was begun with")
        if cluster == LOCAL:
            from launch.background import submit as hand_in
        else:
            from launch.slurm import submit as hand_in
        job = hand_in(run.path, images, name, wanted)
        typer.echo(f"job {job}: {run.path} (sivae status {run.path}, sivae logs {run.path} -f)")
