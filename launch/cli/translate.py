"""`sivae translate`: images with the class of one image and the content of another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import CheckpointOption, Device, Live, Model, NoLabels, Out, data_of, each_expanded, load
from sivae_dist.process import startup

if TYPE_CHECKING:
    from torch import Tensor

    from sivae_dist.use.pretrained import Pretrained

_Classes = Annotated[
    list[Path] | None,
    typer.Option(
        "--class",
        metavar="IMAGE|FOLDER",
        help="Whose class to show, a row for each; repeatable. By default test images of different classes.",
        callback=each_expanded,
    ),
]
_Contents = Annotated[
    list[Path] | None,
    typer.Option(
        "--content",
        metavar="IMAGE|FOLDER",
        help="Whose content to show, a column for each; repeatable. By default test images of one class.",
        callback=each_expanded,
    ),
]


def translate(
    run: Model,
    out: Out,
    classes: _Classes = None,
    contents: _Contents = None,
    count: Annotated[
        int, typer.Option(min=1, help="Rows and columns, at most, of test images or of the images in a folder.")
    ] = 6,
    data: Annotated[
        str | None, typer.Option(help="Location of the prepared data set; by default that of the run.")
    ] = None,
    checkpoint: CheckpointOption = "latest",
    live: Live = False,
    device: Device = "auto",
    no_labels: NoLabels = False,
) -> None:
    """Draw content transfer: classes in rows, contents in columns.

    Each image has the class of the image on its left and the content of the image above it. The model must be one of
    image translation (model.name=translation). Images are prepared like the training images.
    """
    with one_line_errors(), startup.loading("PyTorch"):
        from sivae_dist.use import figures
        from sivae_dist.use.figures import real

        figures.check_out(out)
        model = load(run, checkpoint, live, device)
        model.check_translates()
        if bool(classes) != bool(contents):
            raise ValueError("give both --class and --content, or neither for images of the test split")
        if classes and contents:
            if data is not None:
                raise ValueError("give images or --data, not both")
            rows, columns = (_from_files(model, paths, count) for paths in (classes, contents))
        else:
            rows, columns = real.for_translation(model, data_of(run, data), count)
        sheet = figures.translated(model, rows[0], columns[0], (rows[1], columns[1]))
        figures.save_picture(out, sheet.draw(labels=not no_labels))
        what = f"{len(rows[1])} classes x {len(columns[1])} contents"
        typer.echo(f"{out}: {what} at {model.images:,} images")


def _from_files(model: "Pretrained", paths: list[Path], count: int) -> "tuple[Tensor, list[str]]":
    from sivae_dist.use.figures import real

    files = [file for path in paths for file in (real.files_in(path, count) if path.is_dir() else [path])]
    return real.from_files(model, files), [file.stem for file in files]
