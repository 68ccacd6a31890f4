"""`sivae export`: write a trained model for others to use."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import CheckpointOption, Live, Run, expanded
from sivae_dist.process import startup


def export(
    run: Run,
    out: Annotated[Path, typer.Argument(help="The directory to create; it must not exist yet.", callback=expanded)],
    checkpoint: CheckpointOption = "latest",
    live: Live = False,
    license: Annotated[
        str, typer.Option(metavar="ID", help="License of the model: apache-2.0, cc-by-4.0, other, ...")
    ] = "unknown",
) -> None:
    """Export a run's networks as safetensors, with their settings and a model card.

    `sivae_dist.load_pretrained` and the commands that draw pictures accept the directory.
    """
    with one_line_errors(), startup.loading("PyTorch"):
        from sivae_dist.use.export import export as write

        config = write(run, out, checkpoint=checkpoint, live=live, license=license)
        typer.echo(f"{out}: the model at {config.images:,} images")
