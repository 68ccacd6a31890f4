"""`sivae curves`: a run's metrics as a picture."""

from pathlib import Path
from typing import Annotated, Any

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import Run, each_expanded, expanded
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
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN", help="Another run, drawn into the same panels; may be repeated.", callback=each_expanded
        ),
    ] = None,
) -> None:
    """Plot the terms and losses of a run's objective against images seen, alone or beside other runs."""
    with one_line_errors(), startup.loading("PyTorch"):
        from sivae_dist.config.opening import settings_of
        from sivae_dist.run.directory import RunDirectory
        from sivae_dist.run.jsonl import read_rows
        from sivae_dist.use import figures
        from sivae_dist.use.figures.plots import PLOTS

        if out is not None:
            figures.check_out(out, PLOTS)
        found: dict[str, list[dict[str, Any]]] = {}
        for path in (run, *(beside or ())):
            settings_of(RunDirectory(path))  # ValueError when this is not a run
            if path.name in found:
                raise ValueError(f"two of the runs are called {path.name}")
            found[path.name] = read_rows(RunDirectory(path).metrics)
            if not found[path.name]:
                raise ValueError(f"{path} has no metrics yet")
        rows = found.pop(run.name)
        out = out or RunDirectory(run).curves
        figures.curves(rows, out, run.name, settings_of(RunDirectory(run)).objective, found)
        typer.echo(f"{out}: {len(rows)} points")
