"""`sivae curves`: a run's metrics as a picture."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import Run, expanded
from sivae_dist.process import startup


def curves(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The picture to write, also as .pdf or .svg; RUN/figures/curves.png by default.",
            callback=expanded,
        ),
    ] = None,
) -> None:
    """Plot the terms and losses of a run's objective against images seen."""
    with one_line_errors(), startup.loading("PyTorch"):
        from sivae_dist.config.opening import settings_of
        from sivae_dist.run.directory import RunDirectory
        from sivae_dist.run.jsonl import read_rows
        from sivae_dist.use import figures
        from sivae_dist.use.figures.metrics import CURVES

        if out is not None:
            figures.check_out(out, CURVES)
        directory = RunDirectory(run)
        settings = settings_of(directory)  # ValueError when this is not a run
        rows = read_rows(directory.metrics)
        if not rows:
            raise ValueError(f"{run} has no metrics yet")
        out = out or directory.curves
        figures.curves(rows, out, run.name, settings.objective)
        typer.echo(f"{out}: {len(rows)} points")
