"""`sivae figure`: a figure of the paper, from runs."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import CheckpointOption, Device, Live, Seed, each_expanded, expanded
from sivae_dist.process import startup


def figure(
    name: Annotated[str, typer.Argument(help="fig9: samples and densities of points; fig21: posterior collapse.")],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs to show.", callback=each_expanded)],
    out: Annotated[
        Path, typer.Option(help="The picture to write: .png, .pdf, .svg, or as of `sample`.", callback=expanded)
    ],
    count: Annotated[int, typer.Option(min=1, help="Number of samples, and of real points.")] = 5_000,
    seed: Seed = 0,
    checkpoint: CheckpointOption = "latest",
    live: Live = False,
    device: Device = "auto",
) -> None:
    """Make a figure of the paper's appendix from trained runs.

    fig9 has a row for each data set and a column for each objective of the runs, in their order; what is not given
    stays blank. fig21 has the samples and the KL divergence of each run.
    """
    with one_line_errors(), startup.loading("PyTorch"):
        from sivae_dist.process.devices import Place, pick_device
        from sivae_dist.use import figures
        from sivae_dist.use.figures.paper import FIGURES, Shown
        from sivae_dist.use.figures.plots import PLOTS

        figures.check_out(out, PLOTS)
        draw, place = FIGURES[name], pick_device(device, Place())
        shown = []
        for run in runs:
            startup.doing(f"loading {run}")
            shown.append(Shown.of(run, checkpoint=checkpoint, live=live, device=place))
        figures.save_plot(out, draw(shown, seed, count))
        typer.echo(f"{out}: {name} of {len(shown)} run{'s' * (len(shown) > 1)}")
