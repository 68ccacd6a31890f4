"""Options and arguments that the commands about trained models share."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.cli.completion import configurations, settings
from sivae_dist.process import startup

if TYPE_CHECKING:
    from data_pipelines.dataset import DatasetSettings
    from sivae_dist.use.pretrained import Pretrained


def expanded(path: Path | None) -> Path | None:
    """Expands `~` and `$VARIABLES`, which a shell does not do after `=` or in quotes."""
    if path is None:
        return None
    from data_pipelines.settings import expand

    try:
        return Path(expand(str(path)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def each_expanded(paths: list[Path] | None) -> list[Path]:
    """The same for an option that may be repeated."""
    return [path for one in paths or [] if (path := expanded(one)) is not None]


Config = Annotated[
    str,
    typer.Argument(help="A YAML file, or the name of a built-in configuration.", autocompletion=configurations),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", autocompletion=settings, show_default=False)
]
Model = Annotated[
    Path, typer.Argument(metavar="RUN", help="Directory of a run or an exported model.", callback=expanded)
]
Run = Annotated[Path, typer.Argument(help="A run's directory.", callback=expanded)]
RunDir = Annotated[Path | None, typer.Option(help="Directory of the run; runs/CONFIG by default.", callback=expanded)]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE|FILE.py",
        help="Your own code that adds models, objectives, metrics, ...; repeatable.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        help="The picture to write; the extension decides the format: .png, .jpg, .webp, .tiff or .bmp.",
        callback=expanded,
    ),
]
OutOrTable = Annotated[
    Path,
    typer.Option(
        help="The picture to write; the extension decides the format: .png, .jpg, .webp, .tiff or .bmp; of points also "
        ".pdf, .svg, or .csv or .npy for the points themselves.",
        callback=expanded,
    ),
]
CheckpointOption = Annotated[
    str,
    typer.Option(
        metavar="latest|best|N",
        help="The newest checkpoint, the best by the run's checkpoint.best_metric, or the one after N images.",
    ),
]
Live = Annotated[bool, typer.Option("--live", help="Use the trained weights instead of their moving averages.")]
Device = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda|cuda:N", help="Device to use; auto = a GPU if there is one.")
]
Columns = Annotated[int, typer.Option(min=1, help="Images per row.")]
Seed = Annotated[int, typer.Option(min=0, help="Sample i depends only on the seed and i.")]
Numbers = Annotated[
    str | None, typer.Option("--seeds", metavar="0-7,12", help="Which samples to show, by number; instead of --count.")
]
ClassNames = Annotated[
    str | None,
    typer.Option("--classes", metavar="NAME|N[,...]", help="Classes by name or number, where the model has classes."),
]
NoLabels = Annotated[bool, typer.Option("--no-labels", help="Draw only the images.")]


def load(path: Path, checkpoint: str, live: bool, device: str) -> "Pretrained":
    from sivae_dist import load_pretrained
    from sivae_dist.process.devices import Place, pick_device

    startup.doing(f"loading {path}")
    model = load_pretrained(path, checkpoint=checkpoint, live=live, device=pick_device(device, Place()))
    startup.doing("drawing")
    return model


def data_of(run: Path, data: str | None) -> "DatasetSettings":
    """Settings of the data set at `data`, or of a run's own. ValueError for an exported model, which records none."""
    from data_pipelines.images.dataset import ImageSettings
    from sivae_dist.config.opening import settings_of
    from sivae_dist.run.directory import RunDirectory

    if data is not None:
        return ImageSettings(path=data)
    directory = RunDirectory(run)
    if not directory.config.exists():
        raise ValueError(f"{run} does not record the path of its data set: give images, or the data set with --data")
    return settings_of(directory).data


def parse_numbers(text: str) -> list[int]:
    """`0-3,8` as 0, 1, 2, 3, 8."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
        first = int(match[1]) if match else 1
        last = int(match[2] or first) if match else 0
        if last < first or last - first >= 10_000:
            raise ValueError(f"{text!r} is not a list of sample numbers; write it like 0-7,12")
        numbers += range(first, last + 1)
    return numbers


def parse_classes(text: str | None, model: "Pretrained") -> list[int]:
    """`bag,3` as the numbers of these classes; without a text, none. A name may contain commas if it stands alone."""
    from sivae_dist.use.classes import class_number

    if text is None:
        return []
    names = model.class_names
    if not names:
        raise ValueError("the model has no classes")
    wanted = [text] if text in names else [part.strip() for part in text.split(",")]
    return [class_number(names, one) for one in wanted]


def parse_truncation(text: str) -> list[float]:
    """`0.5,1` as 0.5, 1.0."""
    parts = [re.fullmatch(r"\s*(-?\d*\.?\d+)\s*", part, re.ASCII) for part in text.split(",")]
    if not all(parts):
        raise ValueError(
            f"--truncation {text!r} is not a number or a comma-separated list; write it like 0.7 or 0,0.5,1"
        )
    return [float(part[1]) for part in parts if part]


def assigned(overrides: list[str] | None, data: str | None = None, imports: list[str] | None = None) -> list[str]:
    """All settings given to a command, as `key=value`; values of options are quoted, as they may look like YAML."""
    given = list(overrides or [])
    if data is not None:
        given.append(f"data.path={json.dumps(data)}")
    if imports:
        given.append(f"imports={json.dumps(imports)}")
    return given
