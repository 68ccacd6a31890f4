"""`sivae plan`: what a run will take on given GPUs, and how far a plan was off."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import Imports, Overrides, assigned, expanded
from sivae_dist.process import startup


def plan(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|RUN",
            help="A YAML file, the name of a built-in configuration, or a run's directory, whose plan is compared with "
            "what happened.",
        ),
    ],
    overrides: Overrides = None,
    gpu: Annotated[str | None, typer.Option(metavar="h100|h200|a100|4090", help="GPUs of this kind.")] = None,
    machine: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The machine that `sivae benchmark` has measured.", callback=expanded),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N]...", help="Numbers of GPUs, or of processes on a CPU; of a run, by default its own."
        ),
    ] = None,
    price: Annotated[float | None, typer.Option(help="Price of a GPU-hour.")] = None,
    data: Annotated[str | None, typer.Option(help="The prepared data set, which has the length of an epoch.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Training samples, if the data set is not here.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the plan as JSON.", callback=expanded)
    ] = None,
    imports: Imports = None,
) -> None:
    """Plan a run: images/s, memory, communication, days, GPU-hours, money and energy of every phase.

    From the operations of a traced step and constants of the machine: tabled (--gpu; no GPU has been measured) or
    measured (--machine).
    """
    with one_line_errors(), startup.loading("PyTorch"):
        from launch.forecast.command import plan_run

        plan_run(config, assigned(overrides, data, imports), gpu, machine, gpus, price, samples, json_file)
