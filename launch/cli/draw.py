"""`sivae data draw`: write a procedurally drawn data set as a folder of PNG files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from launch.cli.errors import one_line_errors

if TYPE_CHECKING:
    from data_pipelines.pool import Tick

CHUNK = 50
"""Images that a worker draws between two progress reports."""


class _Drawing(NamedTuple):
    """The parameters that all workers share."""

    name: str
    folder: str
    seed: int
    images: int


def _draw_chunk(drawing: _Drawing, chunk: range, tick: "Tick") -> None:
    from PIL import Image

    from data_pipelines.images.drawn import DRAWN

    kind = DRAWN[drawing.name]
    name = kind.names(drawing.images)
    for index in chunk:
        path = Path(f"{drawing.folder}/{name(index)}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(kind.draw(drawing.seed, index)).save(path, compress_level=6)
    tick(len(chunk))


def draw(
    name: Annotated[str, typer.Argument(help="Name of the drawn set: faces, cars.")],
    dest: Annotated[Path, typer.Argument(help="The folder to create; it must not exist yet.")],
    count: Annotated[
        int | None, typer.Option(min=1, help="Number of images: 6000 faces and 17568 cars if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Image i depends only on the seed and i.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 2,
) -> None:
    """Draw images from a seed, as a data set for demos and tests that needs no download.

    Of faces, writes DEST/00000.png and so on, 128 x 128 RGB. Of cars, 64 x 64 RGB, 24 azimuths and 4 elevations of each
    model: DEST/train/car-000/azimuth-00-elevation-0.png and so on, and the last models in DEST/test. DEST appears only
    when it is complete.
    """
    with one_line_errors():
        import shutil
        from difflib import get_close_matches

        from data_pipelines.images.drawn import DRAWN
        from data_pipelines.pool import run_tasks
        from data_pipelines.problems import did_you_mean

        if name not in DRAWN:
            near = get_close_matches(name, DRAWN, n=1, cutoff=0.4)
            hint = did_you_mean(near) or f"; there is: {', '.join(sorted(DRAWN))}"
            raise ValueError(f"no drawn set is called {name!r}{hint}")
        count = DRAWN[name].count if count is None else count
        DRAWN[name].names(count)  # or the number is refused
        if dest.exists():
            raise ValueError(f"{dest} exists already; remove it or name another folder")
        partial = dest.with_name(dest.name + ".partial")
        drawing = _Drawing(name, str(partial), seed, count)
        chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
        shown = 0

        def report(done: int) -> None:
            nonlocal shown
            if done * 10 // count > shown:
                shown = done * 10 // count
                typer.echo(f"drawn {done} of {count}")

        try:
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir(parents=True)
            run_tasks(_draw_chunk, drawing, chunks, workers, report)
            partial.rename(dest)
        except OSError as error:
            raise ValueError(f"cannot write {dest}: {error.strerror or error}") from None
        typer.echo(f"{count} images of {name!r}, seed {seed}, in {dest}")
