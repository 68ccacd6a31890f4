"""The options by which commands that start jobs are told what to ask of a cluster."""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from launch.clusters import ClusterSettings

LOCAL = "local"

Cluster = Annotated[
    str,
    typer.Option(help="A file or name of configs/clusters; auto: found by SLURM's ClusterName; local: no cluster."),
]

Resources = dict[str, Any] | None
"""Those of the options below that were given."""

_OPTIONS: dict[str, Any] = {
    "nodes": Annotated[int | None, typer.Option(min=1, help="Nodes.")],
    "gpus_per_node": Annotated[
        int | None, typer.Option(min=0, help="GPUs a node, one process for each; 0 trains on CPUs.")
    ],
    "tasks_per_node": Annotated[int | None, typer.Option(min=1, help="Processes a node, where it is not one a GPU.")],
    "cpus_per_task": Annotated[int | None, typer.Option(min=1, help="CPUs a process.")],
    "mem": Annotated[str | None, typer.Option(help="Memory a node, like 64G.")],
    "time": Annotated[str | None, typer.Option(help="Time limit: minutes, hh:mm:ss or days-hh:mm:ss.")],
    "partition": Annotated[str | None, typer.Option(help="Partition to queue in.")],
    "account": Annotated[str | None, typer.Option(help="Account to charge.")],
    "qos": Annotated[str | None, typer.Option(help="Quality of service.")],
    "constraint": Annotated[str | None, typer.Option(help="Features that nodes must have.")],
    "exclude": Annotated[str | None, typer.Option(help="Nodes not to use.")],
    "container_image": Annotated[str | None, typer.Option(help="Container image, run as the cluster's settings say.")],
    "setup": Annotated[
        list[str] | None, typer.Option(help='Shell command before the processes start: "module load cuda".')
    ],
}


def with_resources(command: Callable[..., None]) -> Callable[..., None]:
    """Puts an option for each resource in the place of a command's parameter `resources`, which gets those given."""

    @functools.wraps(command)
    def told_apart(**arguments: Any) -> None:
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
    told_apart.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    told_apart.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return told_apart


def asked_for(cluster: str, resources: Resources) -> "ClusterSettings":
    """A cluster's settings with the resources on top. ValueError in one line a problem."""
    from launch.clusters import load_cluster

    return load_cluster("auto" if cluster == LOCAL else cluster, resources or {})
