"""`sivae sample`, `reconstruct`, `interpolate`, `growth` and `animate`: pictures of a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import (
    CheckpointOption,
    ClassNames,
    Columns,
    Device,
    Live,
    Model,
    NoLabels,
    Numbers,
    Out,
    OutOrTable,
    Run,
    Seed,
    data_of,
    expanded,
    load,
    parse_classes,
    parse_numbers,
    parse_truncation,
)
from sivae_dist.process import startup

_POINTS = 5_000
"""Samples that are no images, by default."""

if TYPE_CHECKING:
    import torch

    from sivae_dist.use.pretrained import Pretrained


def sample(
    run: Model,
    out: OutOrTable,
    count: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of samples; by default 64, or 8 if each is a row, or for each class; of points 5,000."
        ),
    ] = None,
    seeds: Numbers = None,
    seed: Seed = 0,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|N[,...]",
            help="Classes by name or number, where the model has classes: one row for each; by default all of them.",
        ),
    ] = None,
    truncation: Annotated[
        str,
        typer.Option(
            metavar="PSI[,PSI...]",
            help="Pull w towards its mean: 1 = unchanged, 0 = the mean. With several values, one column per value.",
        ),
    ] = "1",
    style_mixing: Annotated[
        str | None,
        typer.Option(
            metavar="0-7,12",
            help="Mix styles: samples with these numbers (one per column) set the later layers, those of --seeds or "
            "--count (one per row) the first layers.",
        ),
    ] = None,
    cutoff: Annotated[
        int | None, typer.Option(min=1, help="Number of first layers in style mixing; by default half of all layers.")
    ] = None,
    columns: Columns = 8,
    checkpoint: CheckpointOption = "latest",
    live: Live = False,
    device: Device = "auto",
    no_labels: NoLabels = False,
) -> None:
    """Draw samples from the prior, by class, at one or several truncations, or mixed in style.

    Samples that are no images are drawn as points, or written as a table.
    """
    with one_line_errors(), startup.loading("PyTorch"):
        from sivae_dist.use import figures
        from sivae_dist.use.figures.points import POINTS

        figures.check_out(out, POINTS)
        psis = parse_truncation(truncation)
        if style_mixing is None and cutoff is not None:
            raise ValueError("--cutoff needs --style-mixing")
        if style_mixing is not None and len(psis) > 1:
            raise ValueError("--style-mixing takes a single --truncation")
        model = load(run, checkpoint, live, device)
        shown = parse_classes(classes, model)
        if not model.settings.of_images:
            if style_mixing is not None or psis != [1]:
                raise ValueError(f"--truncation and --style-mixing are for images; {_vectors(model)}")
            numbers = list(range(count or _POINTS)) if seeds is None else parse_numbers(seeds)
            figures.sample_points(model, numbers, out, seed, classes=shown)
            return _report(out, f"{len(numbers):,} samples", model)
        figures.check_out(out)
        mixed = style_mixing is not None or len(psis) > 1
        if mixed and len(shown) > 1:
            raise ValueError("with --style-mixing or several truncations, --classes takes a single one")
        few = mixed or bool(model.class_names)
        numbers = list(range(count or (8 if few else 64))) if seeds is None else parse_numbers(seeds)
        if style_mixing is None:
            sheet = figures.samples(model, numbers, seed, truncation=psis, columns=columns, classes=shown)
            what = f"{len(numbers)} samples" + (f" of {len(sheet.cells)} classes" if few and not mixed else "")
        else:
            fine = parse_numbers(style_mixing)
            sheet = figures.style_mixing(model, numbers, fine, seed, cutoff=cutoff, truncation=psis[0], classes=shown)
            what = f"{len(numbers)} x {len(fine)} mixed samples"
        figures.save_picture(out, sheet.draw(labels=not no_labels))
        _report(out, what, model)


def reconstruct(
    run: Model,
    out: OutOrTable,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[IMAGES|FOLDER]...",
            help="Image files, which are prepared like the training images; by default the data set's test split.",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of images from the start of a folder or the test split; by default 24, or 8 with --as; of "
            "points 5,000.",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="NAME|N",
            help="The class of image files, where the model has classes; by default that of the folder's name.",
        ),
    ] = None,
    others: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME|N[,...]",
            help="Decode each code as these classes as well: one row per image, one column per class.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Location of the prepared data set; by default that of the run.")
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help="Pairs per row.")] = 4,
    checkpoint: CheckpointOption = "latest",
    live: Live = False,
    device: Device = "auto",
    no_labels: NoLabels = False,
) -> None:
    """Reconstruct images: draw pairs of a real image (left) and its reconstruction (right).

    Of samples that are no images, the test split is drawn beside its reconstructions, or those are written as a table.
    """
    with one_line_errors(), startup.loading("PyTorch"):
        from sivae_dist.use import figures
        from sivae_dist.use.figures import real
        from sivae_dist.use.figures.points import POINTS

        figures.check_out(out, POINTS)
        model = load(run, checkpoint, live, device)
        if not model.settings.of_images:
            if images or data is not None or label is not None or others is not None:
                raise ValueError(f"only the run's own test split can be reconstructed: {_vectors(model)}")
            x, labels = _test_split(model, run, None, count or _POINTS)
            figures.reconstruct_points(model, x, labels, out)
            return _report(out, f"{len(x):,} reconstructions", model)
        figures.check_out(out)
        classes = parse_classes(others, model)
        count = count or (8 if classes else 24)
        if images:
            if data is not None:
                raise ValueError("give images or --data, not both")
            paths = [path.expanduser() for path in images]
            files = [file for path in paths for file in (real.files_in(path, count) if path.is_dir() else [path])]
            x, labels, origin = real.from_files(model, files), real.classes_of(model, files, label), ""
        else:
            if label is not None:
                raise ValueError("--class is for image files: a data set has its own labels")
            (x, labels), origin = _test_split(model, run, data, count), "test data"
        sheet = figures.reconstructions(model, x, labels=labels, classes=classes, columns=columns, origin=origin)
        figures.save_picture(out, sheet.draw(labels=not no_labels))
        _report(out, f"{len(x)} reconstructions", model)


def interpolate(
    run: Model,
    a: Annotated[str, typer.Argument(metavar="A", help="Top left: an image file, or the number of a sample.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Top right.")],
    c: Annotated[str, typer.Argument(metavar="C", help="Bottom left.")],
    d: Annotated[str, typer.Argument(metavar="D", help="Bottom right.")],
    out: Out,
    space: Annotated[
        Literal["z", "w"], typer.Option(help="z as in the paper's appendix, or w as in the authors' figure.")
    ] = "z",
    steps: Annotated[int, typer.Option(min=1, help="Steps from corner to corner; a row has one more image.")] = 7,
    name: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME|N", help="The class of all images, where the model has classes."),
    ] = None,
    seed: Seed = 0,
    checkpoint: CheckpointOption = "latest",
    live: Live = False,
    device: Device = "auto",
    no_labels: NoLabels = False,
) -> None:
    """Interpolate between four images or samples at the corners of a square.

    A whole number means a sample; write ./12 for a file of that name.
    """
    with one_line_errors(), startup.loading("PyTorch"):
        import torch

        from sivae_dist.use import figures
        from sivae_dist.use.figures import real

        figures.check_out(out)
        model = load(run, checkpoint, live, device)
        _only_images(model)
        label = _class(model, name)
        codes: list[torch.Tensor] = []
        names: list[str] = []
        shown: list[torch.Tensor | None] = []
        for corner in (a, b, c, d):
            if corner.isascii() and corner.isdigit():
                codes.append(model.latents(int(corner), 1, seed))
                names.append(f"sample {int(corner)}")
                shown.append(None)
            else:
                path = Path(corner).expanduser()
                if not path.exists() and not path.suffix:
                    raise ValueError(f"{corner} is neither an image file nor the number of a sample")
                x = real.from_files(model, [path])
                codes.append(model.encode(x, label)[0])
                names.append(Path(corner).stem)
                shown.append(x[0])
        sheet = figures.interpolation(model, torch.cat(codes), names, shown, steps=steps, space=space, label=label)
        figures.save_picture(out, sheet.draw(labels=not no_labels))
        _report(out, f"{steps + 1} x {steps + 1} images", model)


def growth(
    run: Run,
    out: Out,
    count: Annotated[int, typer.Option(min=1, help="Number of samples, one per row.")] = 4,
    seeds: Numbers = None,
    seed: Seed = 0,
    classes: ClassNames = None,
    checkpoint: CheckpointOption = "latest",
    live: Live = False,
    device: Device = "auto",
    no_labels: NoLabels = False,
) -> None:
    """Draw the same samples at every resolution of a run.

    Each resolution uses its newest remaining checkpoint (checkpoint.keep_every); if there is none, it uses the last
    network cut off at that resolution, and is marked.
    """
    with one_line_errors(), startup.loading("PyTorch"):
        from sivae_dist.process.devices import Place, pick_device
        from sivae_dist.use import figures
        from sivae_dist.use.loading import load_growth

        figures.check_out(out)
        numbers = list(range(count)) if seeds is None else parse_numbers(seeds)
        models = load_growth(run, checkpoint=checkpoint, live=live, device=pick_device(device, Place()))
        _only_images(models[-1])
        sheet = figures.growth(models, numbers, seed, classes=parse_classes(classes, models[-1]))
        figures.save_picture(out, sheet.draw(labels=not no_labels))
        _report(out, f"{len(numbers)} samples at {len(models)} resolutions", models[-1])


def animate(
    run: Model,
    out: Annotated[Path, typer.Option(help="The .gif or .mp4 file to write.", callback=expanded)],
    count: Annotated[int, typer.Option(min=1, help="Walks side by side.")] = 8,
    stops: Annotated[int, typer.Option(min=2, help="Samples that each walk passes through before it closes.")] = 5,
    frames: Annotated[int, typer.Option(min=1, help="Frames from one stop to the next.")] = 20,
    fps: Annotated[int, typer.Option(min=1, max=50, help="Frames per second.")] = 25,
    seed: Seed = 0,
    classes: ClassNames = None,
    truncation: Annotated[float, typer.Option(help="Pull w towards its mean: 1 = unchanged, 0 = the mean.")] = 1.0,
    columns: Columns = 8,
    checkpoint: CheckpointOption = "latest",
    live: Live = False,
    device: Device = "auto",
) -> None:
    """Animate smooth closed walks through latent space."""
    with one_line_errors(), startup.loading("PyTorch"):
        from sivae_dist.use import figures
        from sivae_dist.use.figures.animation import MOVING

        figures.check_out(out, MOVING)
        model = load(run, checkpoint, live, device)
        _only_images(model)
        total = figures.animate(
            model, out, seed,
            walks=count, stops=stops, frames=frames, fps=fps, truncation=truncation, columns=columns,
            classes=parse_classes(classes, model),
        )  # fmt: skip
        _report(out, f"{count} walks in {total} frames", model)


def _only_images(model: "Pretrained") -> None:
    """ValueError for a model whose samples are no images."""
    if not model.settings.of_images:
        raise ValueError(f"this command draws images; {_vectors(model)}, which `sivae sample` draws")


def _vectors(model: "Pretrained") -> str:
    return f"the samples of this model are points of {model.settings.dimensions} values"


def _class(model: "Pretrained", name: str | None) -> int | None:
    """The one class of an interpolation. ValueError when none is named where there are some."""
    if name is None:
        if model.class_names:
            raise ValueError(f"the model has classes ({', '.join(model.class_names)}): name one with --class")
        return None
    (label, *more) = parse_classes(name, model)
    if more:
        raise ValueError("--class takes a single class: what lies between codes is of one")
    return label


def _test_split(
    model: "Pretrained", path: Path, data: str | None, count: int
) -> "tuple[torch.Tensor, torch.Tensor | None]":
    from sivae_dist.use.figures import real

    return real.from_test_split(model, data_of(path, data), count)


def _report(out: Path, what: str, model: "Pretrained") -> None:
    typer.echo(f"{out}: {what} at {model.images:,} images")
