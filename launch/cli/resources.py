"""Options for the resources that a job requests from a cluster."""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from launch.clusters import Cluster, Resources

ClusterName = Annotated[
    str,
    typer.Option(
        help="A file, or the name of one in configs/clusters; auto: chosen by SLURM's ClusterName; local: this machine."
    ),
]

Given = dict[str, Any] | None
"""The options below that were given on the command line."""

_OPTIONS: dict[str, Any] = {
    "job_name": Annotated[
        str | None, typer.Option(help="Name of the job; by default that of the configuration or sweep.")
    ],
    "nodes": Annotated[int | None, typer.Option(min=1, help="Number of nodes.")],
    "gpus_per_node": Annotated[
        str | None,
        typer.Option(
            metavar="N|TYPE:N",
            help="GPUs per node, with one process per GPU: 4, or a100:4. 0 trains on CPUs.",
            show_default=False,
        ),
    ],
    "gpus_per_task": Annotated[str | None, typer.Option(metavar="1|TYPE:1", help="Bind one GPU to each process.")],
    "gres": Annotated[str | None, typer.Option(help="Generic resources per node, instead of GPUs: gpu:a100:4.")],
    "tasks_per_node": Annotated[int | None, typer.Option(min=1, help="Processes per node; by default one per GPU.")],
    "cpus_per_task": Annotated[int | None, typer.Option(min=1, help="CPUs per process.")],
    "mem": Annotated[str | None, typer.Option(help="Memory per node, like 64G.")],
    "time": Annotated[str | None, typer.Option(help="Time limit: minutes, hh:mm:ss or days-hh:mm:ss.")],
    "partition": Annotated[str | None, typer.Option(help="Partition to queue in.")],
    "account": Annotated[str | None, typer.Option(help="Account to charge.")],
    "qos": Annotated[str | None, typer.Option(help="Quality of service.")],
    "constraint": Annotated[str | None, typer.Option(help="Features that nodes must have.")],
    "exclude": Annotated[str | None, typer.Option(help="Nodes not to use.")],
    "signal_delay": Annotated[
        int | None, typer.Option(min=1, help="Seconds before the time limit at which the run saves and stops.")
    ],
    "container_image": Annotated[
        str | None, typer.Option(help="Container image; the cluster's settings choose the runtime.")
    ],
    "setup": Annotated[
        list[str] | None, typer.Option(help='Shell command to run before the processes: "module load cuda".')
    ],
    "sbatch": Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VALUE]", help="Any sbatch option; overrides sivae's: mail-type=END, exclusive."),
    ],
    "srun": Annotated[
        list[str] | None, typer.Option(metavar="NAME[=VALUE]", help="Any srun option: mpi=pmix, cpu-bind=cores.")
    ],
}


def with_resources(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces a command's parameter `resources` by one option per resource, and passes it a dict of those given."""

    @functools.wraps(command)
    def wrapper(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in _OPTIONS}
        command(**arguments, resources={name: value for name, value in given.items() if value not in (None, [])})

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "resources":
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters += [
                inspect.Parameter(name, kind, default=None, annotation=annotation)
                for name, annotation in _OPTIONS.items()
            ]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def asked_for(name: str, resources: Given) -> "tuple[Cluster[Any], Resources]":
    """The cluster that `--cluster NAME` selects, and the resources of a job. ValueError with one line per problem."""
    from launch.clusters import cluster_for

    cluster = cluster_for(name)
    return cluster, cluster.resources(name, resources or {})
