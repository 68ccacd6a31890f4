"""`sivae data draw`: write a drawn set as a folder of PNG files."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors

CHUNK = 50
"""Images a worker draws before it reports."""


def _draw_chunk(name: str, folder: str, seed: int, start: int, stop: int, digits: int) -> int:
    """Draws images start to stop - 1 into `folder`; returns how many."""
    from PIL import Image

    from data_pipelines.images.drawn import DRAWN

    for index in range(start, stop):
        image = Image.fromarray(DRAWN[name](seed, index))
        image.save(f"{folder}/{index:0{digits}d}.png", compress_level=6)
    return stop - start


def draw(
    name: Annotated[str, typer.Argument(help="Which drawn set: faces.")],
    dest: Annotated[Path, typer.Argument(help="The folder to make; it must not exist yet.")],
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 6000,
    seed: Annotated[int, typer.Option(min=0, help="Image i follows from the seed and i alone.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 2,
) -> None:
    """Draw images from a seed: a data set for demos and tests that needs no download.

    Writes DEST/00000.png and so on, 128 x 128 RGB. The folder gets its name only when it is complete.
    """
    with one_line_errors():
        import shutil
        from concurrent.futures import ProcessPoolExecutor, as_completed
        from difflib import get_close_matches

        from data_pipelines.images.drawn import DRAWN
        from data_pipelines.problems import did_you_mean

        if name not in DRAWN:
            near = get_close_matches(name, DRAWN, n=1, cutoff=0.4)
            hint = did_you_mean(near) or f"; there is: {', '.join(sorted(DRAWN))}"
            raise ValueError(f"no drawn set is called {name!r}{hint}")
        if dest.exists():
            raise ValueError(f"{dest} exists already; remove it or name another folder")
        partial = dest.with_name(dest.name + ".partial")
        digits = max(5, len(str(count - 1)))
        starts = range(0, count, CHUNK)
        try:
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir(parents=True)
            with ProcessPoolExecutor(min(workers, len(starts))) as pool:
                chunks = [
                    pool.submit(_draw_chunk, name, str(partial), seed, start, min(start + CHUNK, count), digits)
                    for start in starts
                ]
                try:
                    done = shown = 0
                    for chunk in as_completed(chunks):
                        done += chunk.result()
                        if done * 10 // count > shown:
                            shown = done * 10 // count
                            typer.echo(f"drawn {done} of {count}")
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            partial.rename(dest)
        except OSError as error:
            raise ValueError(f"cannot write {dest}: {error.strerror or error}") from None
        typer.echo(f"{count} images of {name!r}, seed {seed}, in {dest}")
