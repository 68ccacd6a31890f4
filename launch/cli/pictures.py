"""`sivae sample`, `sivae reconstruct` and `sivae curves`: pictures from a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.errors import one_line_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sivae_dist.models import StyleSettings

Run = Annotated[Path, typer.Argument(help="A run's directory.")]
Out = Annotated[Path, typer.Option(help="The PNG file to write.")]
Live = Annotated[bool, typer.Option("--live", help="The weights in training instead of their moving average.")]
Columns = Annotated[int, typer.Option(min=1, help="Images in a row.")]


def sample(
    run: Run,
    out: Out,
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Image i follows from the seed and i alone.")] = 0,
    live: Live = False,
    columns: Columns = 8,
) -> None:
    """Draw images from the prior of a run's newest checkpoint."""
    with one_line_errors():
        from sivae_dist.figures import grid, save_png
        from sivae_dist.pretrained import load_run

        model = load_run(run, live=live)
        save_png(out, grid(model.sample(count, seed), columns))
        typer.echo(f"{out}: {count} samples at {model.images:,} images")


def reconstruct(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Image files, prepared as the training images were.")],
    out: Out,
    live: Live = False,
    columns: Columns = 8,
) -> None:
    """Encode and decode images: real ones in one row, their reconstructions below."""
    with one_line_errors():
        import numpy as np
        import torch

        from data_pipelines.loader import to_images
        from sivae_dist.figures import grid, in_rows, save_png
        from sivae_dist.pretrained import load_run

        model = load_run(run, live=live)
        pixels = [_prepared(path, model.settings.model, model.stage.resolution) for path in images]
        real = to_images(torch.from_numpy(np.stack(pixels)))
        columns = min(columns, len(images))
        save_png(out, grid(in_rows(real, model.reconstruct(real), columns=columns), columns))
        typer.echo(f"{out}: {len(images)} reconstructions at {model.images:,} images")


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


def _prepared(path: Path, settings: "StyleSettings", resolution: int) -> "NDArray[np.uint8]":
    """An image file [C, R, R] as `sivae data prepare` would have stored it at one level."""
    from data_pipelines.decode import halve, round_pixels
    from data_pipelines.sources import ImageError
    from data_pipelines.sources.image import to_square

    try:
        pixels = to_square(path.read_bytes(), settings.channels, settings.resolution)
    except ImageError as error:
        raise ValueError(f"{path} {error}") from None
    while pixels.shape[0] > resolution:
        pixels = halve(pixels)
    return round_pixels(pixels).transpose(2, 0, 1)
