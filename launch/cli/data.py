"""`sivae data`: prepare, verify and inspect data sets."""

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import expanded
from launch.cli.progress import progress_bar
from sivae_dist.process.output import outlast_watchers

MOST_FAULTS = 100
"""Number of faults that `verify` prints."""

_EXAMPLES = 3
"""Number of file names that `info` shows for each reason to leave files out."""

if TYPE_CHECKING:
    from data_pipelines.images.manifest import Manifest
    from data_pipelines.points.dataset import PointSet

app = typer.Typer(help="Prepare and inspect data sets.", no_args_is_help=True)


@app.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of images, a zip or tar file, WebDataset shards (folder, pattern or URL), an LSUN LMDB, or "
            "the files of CIFAR, MNIST, Cars3D or KTH."
        ),
    ],
    dest: Annotated[Path, typer.Argument(help="Directory to create.")],
    resolution: Annotated[int, typer.Option(help="Resolution of the largest level: 4, 8, ... 1024.")] = 256,
    channels: Annotated[int, typer.Option(help="3 for RGB, 1 for greyscale.")] = 3,
    format: Annotated[
        Literal["png", "jpeg"], typer.Option(help="PNG is lossless; JPEG can be decoded on a GPU.")
    ] = "png",
    quality: Annotated[int, typer.Option(help="JPEG quality, 1 to 100.")] = 95,
    array_max_resolution: Annotated[
        int, typer.Option(help="Levels up to this resolution are stored as arrays, larger ones as tars of images.")
    ] = 32,
    test: Annotated[
        str,
        typer.Option(
            metavar="N|N%|FILE|source",
            help="Test split: a number of samples, a share (10%), a file with one name per line, or the source's own.",
        ),
    ] = "source",
    workers: Annotated[int, typer.Option(min=0, help="Number of processes; 0 = one per core.")] = 0,
    shard_size: Annotated[int, typer.Option(help="Images per shard.")] = 1000,
    labels: Annotated[
        Literal["auto", "folders", "none"],
        typer.Option(help="auto: dataset.json, or else subfolders; folders: subfolders; none: no labels."),
    ] = "auto",
    member: Annotated[
        str | None, typer.Option(help="Extension of the image to use in WebDataset samples that hold several.")
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out files that are not usable images.")
    ] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow symbolic links that lead out of the folder.")
    ] = False,
) -> None:
    """Prepare a data set for training from images.

    Every image is cropped to its centre square and stored at every resolution from RESOLUTION down to 4. To
    continue after an interruption, run the same command again.
    """
    with one_line_errors("interrupted: run the same command again to continue"):
        outlast_watchers()
        from data_pipelines.images.annotations import contents_of
        from data_pipelines.images.mirroring import mirroring_note
        from data_pipelines.images.prepare import PrepareSettings
        from data_pipelines.images.prepare import prepare as run

        settings = PrepareSettings.model_validate(
            {
                "resolution": resolution,
                "channels": channels,
                "format": format,
                "quality": quality,
                "array_max_resolution": array_max_resolution,
                "shard_size": shard_size,
                "test": _read_test(test),
                "labels": labels,
                "member": member,
                "skip_unreadable": skip_unreadable,
            }
        )
        with progress_bar("preparing") as progress:
            processes = workers or len(os.sched_getaffinity(0))
            manifest = run(source, dest, settings, processes, progress, _say, follow_links)
        skipped = f", {len(manifest.skipped)} files left out" if manifest.skipped else ""
        for remark, found in manifest.remarks.items():
            typer.echo(f"{found.counted()} {remark}: {found.named()}")
        typer.echo(f"{dest}: {manifest.train} training and {manifest.test} test samples{skipped}")
        typer.echo(mirroring_note(manifest, contents=contents_of(dest)))


def _say(line: str) -> None:
    # Not typer.echo: a progress bar would overwrite its lines. Flushed, so that it precedes any error.
    print(line, flush=True)


def _read_test(test: str) -> int | str | tuple[str, ...]:
    from data_pipelines.images.sources.splits import SHARE

    if test == "source":
        return test
    if test.isascii() and test.isdigit():
        return int(test)
    path = Path(test).expanduser()
    if re.fullmatch(SHARE, test) and not path.exists():
        return test
    try:
        # Not splitlines: it also breaks at characters that names may contain.
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        reason = error.strerror
        raise ValueError(f"--test {test} is neither a number, a share, nor a readable file ({reason})") from None
    return tuple(line.removesuffix("\r") for line in lines if line.strip())


@app.command()
def verify(
    dest: Annotated[Path, typer.Argument(help="A prepared data set.")],
    decode: Annotated[
        bool, typer.Option("--decode", help="Also decode every stored image and compare it with its own checksum.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Number of processes; 0 = one per core.")] = 0,
) -> None:
    """Find every fault in a prepared data set.

    Compares every file with its checksum in the manifest, and every tar with its index, the labels and the other
    levels. Changes nothing. Prints one line per fault, with the file, byte and key, and exits with 1 if there are any.
    """
    with one_line_errors():
        from data_pipelines.images.manifest import Manifest
        from data_pipelines.images.verify import verify as run

        with progress_bar("verifying") as progress:
            faults = run(dest.expanduser(), decode, workers or len(os.sched_getaffinity(0)), progress)
        for fault in faults[:MOST_FAULTS]:
            typer.echo(str(fault))
        if len(faults) > MOST_FAULTS:
            typer.echo(f"and {len(faults) - MOST_FAULTS} more")
        if faults:
            raise ValueError(f"{dest} has {len(faults)} fault{'s' * (len(faults) > 1)}")
        manifest = Manifest.load(dest.expanduser())
        images = "; all images could be decoded" if decode else ""
        typer.echo(f"{dest}: {manifest.samples} samples at {len(manifest.levels)} levels, no fault found{images}")


@app.command()
def info(
    dest: Annotated[
        str,
        typer.Argument(
            metavar="DEST",
            help="A prepared data set, a file of points (.csv, .npy), or a distribution of points such as 8gaussians.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Draw points in this picture; .png, .pdf, .svg, or as of `sivae sample`.", callback=expanded),
    ] = None,
) -> None:
    """Show the contents of a prepared data set, or of points."""
    with one_line_errors():
        path = Path(dest).expanduser()
        if not path.is_dir():
            from data_pipelines.points.dataset import points_at

            if (points := points_at(dest)) is not None:
                return _show_points(points, out)
        if out is not None:
            raise ValueError(f"--out draws points, and {dest} is not a file or a distribution of them")
        _show_prepared(path)


def _show_points(data: "PointSet", out: Path | None) -> None:
    """Facts of points, and their picture: of a file all of them, of a distribution its test points."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    everything = range(data.train, data.train + data.test) if data.endless else range(data.train + data.test)
    x = data.samples(min(data.spec.shapes), everything).x
    description = inspect.cleandoc(data.distribution.__doc__ or "") if data.distribution else ""
    facts = Table(title=escape(data.where), show_header=False)
    for key, value in (
        ("distribution", description or "a file"),
        ("dimensions", str(x.shape[1])),
        ("training", f"without end, {data.train:,} are an epoch" if data.endless else f"{data.train:,} points"),
        ("test", f"{data.test:,} points"),
        ("scale", f"S = {data.scale:g}: drawn and measured in [-2 S, 2 S]"),
        ("range", "; ".join(f"{low:.4g} to {high:.4g}" for low, high in zip(x.amin(0), x.amax(0), strict=True))),
        ("digest", data.digest),
    ):
        facts.add_row(key, escape(value))
    Console().print(facts)
    if out is not None:
        from sivae_dist.use import figures
        from sivae_dist.use.figures.points import Square

        figures.save_plot(out, figures.scatter({"real": x}, Square.of(x, data.scale), note=data.where))
        typer.echo(f"{out}: {len(x):,} points")


def _show_prepared(dest: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from data_pipelines.images.annotations import contents_of
    from data_pipelines.images.manifest import Manifest
    from data_pipelines.images.mirroring import mirroring_note

    manifest, contents = Manifest.load(dest), contents_of(dest)
    facts = Table(title=str(dest), show_header=False)
    classes = ", ".join(manifest.classes[:10]) + ", ..." * (len(manifest.classes) > 10)
    for key, value in (
        ("samples", f"{manifest.samples} ({manifest.train} training, {manifest.test} test)"),
        ("shards", str(len(manifest.shards))),
        ("channels", str(manifest.channels)),
        ("classes", f"{len(manifest.classes)} ({escape(classes)})" if classes else "none"),
        *([("contents", _contents(contents))] if contents else ()),
        ("left out", _left_out(manifest)),
        *((found.counted(), f"{remark}: {found.named()}") for remark, found in manifest.remarks.items()),
        *_findings(manifest),
        ("mirroring", escape(mirroring_note(manifest, contents=contents))),
        ("source", escape(manifest.source)),
        ("digest", manifest.digest),
    ):
        facts.add_row(key, value)
    levels = Table("resolution", "kind", "format", "files", "bytes", title="levels")
    for resolution, level in sorted(manifest.levels.items()):
        files = len(level.files) + len(level.indexes)
        levels.add_row(str(resolution), level.kind, level.format, str(files), f"{level.total_bytes:,}")
    console = Console()
    console.print(facts)
    console.print(levels)


def _contents(contents: list[str | None]) -> str:
    """The number of contents that several classes have, with the first few."""
    from rich.markup import escape

    found = sorted({content for content in contents if content is not None})
    return f"{len(found)} ({escape(', '.join(found[:_EXAMPLES]))}{', ...' * (len(found) > _EXAMPLES)})"


def _left_out(manifest: "Manifest") -> str:
    """The number of files left out, then each reason with the first few file names."""
    from rich.markup import escape

    reasons: dict[str, list[str]] = {}
    for name, reason in (manifest.found.skipped if manifest.found else {}).items():
        reasons.setdefault(reason, []).append(name)
    lines = [str(len(manifest.skipped))]
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        some = ", ".join(names[:_EXAMPLES]) + ", ..." * (len(names) > _EXAMPLES)
        lines.append(escape(f"{len(names)} {reason}: {some}"))
    return "\n".join(lines)


def _findings(manifest: "Manifest") -> Iterator[tuple[str, str]]:
    """Further findings about the source."""
    from rich.markup import escape

    if (found := manifest.found) is None:
        return
    formats = ", ".join(f"{count:,} {name}" for name, count in found.formats.items())
    yield "found", f"{found.kind}{f' of {formats}' * bool(formats)}"
    seen = []
    for what, some in found.passed_over.items():
        more = ", ..." * (some.files > len(some.examples))
        seen.append(f"{what}: {some.files:,} ({', '.join(some.examples)}{more})")
    if seen:
        yield "skipped", escape("\n".join(seen))
    if found.notes:
        yield "notes", escape("\n".join(found.notes))
