"""`sivae configure`: a configuration for the user's own images."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from sivae_dist.process import startup


def configure(
    data: Annotated[str, typer.Argument(help="A prepared data set (sivae data prepare).")],
    hardware: Annotated[
        str,
        typer.Option(metavar="auto|cpu|GPUS", help="auto: this machine, measured; GPUs like 1xA100-40GB, 8x80GB."),
    ] = "auto",
    resolution: Annotated[
        int | None, typer.Option(min=4, help="Final resolution; by default the largest that fits into the time.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.001, help="Time limit for training; by default 8 on a CPU, 48 on GPUs.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The YAML file to write.")] = Path("my.yaml"),
) -> None:
    """Write a commented configuration for a data set and a machine, and print what to expect of it."""
    with one_line_errors(), startup.loading("PyTorch"):
        from launch.configure.command import configure as write

        write(data, out, hardware, resolution, hours, _say)


def _say(line: str) -> None:
    typer.echo(line)
    startup.doing("measuring")
