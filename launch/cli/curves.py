"""`sivae curves`: a run's metrics as a picture."""

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import Out, Run


def curves(run: Run, out: Out) -> None:
    """Draw a run's reconstruction error, KL divergences, expELBO and losses over images seen."""
    with one_line_errors():
        from sivae_dist import figures
        from sivae_dist.monitoring.scalars import read_rows
        from sivae_dist.run import RunDirectory

        directory = RunDirectory(run)
        directory.settings()  # says so when this is no run
        rows = read_rows(directory.metrics) if directory.metrics.exists() else []
        if not rows:
            raise ValueError(f"{run} has no metrics yet")
        figures.curves(rows, out, f"{run.name}, {rows[-1]['images']:,} images")
        typer.echo(f"{out}: {len(rows)} points")
