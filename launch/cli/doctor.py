"""`sivae doctor`: check whether this machine is ready to train, and write a report that can be shared."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors


def doctor(
    folder: Annotated[
        Path, typer.Option("--dir", help="Where runs will be written; its file system is tested.")
    ] = Path("runs"),
    json: Annotated[Path, typer.Option("--json", help="The report to write; it contains no secrets.")] = Path(
        "doctor.json"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Skip the self-test, which takes about a minute.")] = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Test GPUs for about ten minutes: speed, memory, exactness, engines.")
    ] = False,
    config: Annotated[str, typer.Option(help="With --gpu: the configuration to be trained.")] = "ffhq256",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --gpu: images per process at the final resolution; by default the configuration's."
        ),
    ] = None,
) -> None:
    """Check this machine (packages, driver, GPUs, file system, SLURM, limits), then train a tiny model on it.

    Each line is ok, warn or fail, with the remedy. Exits with 1 if anything fails.
    """
    with one_line_errors():
        from launch.doctor.command import examine, examine_gpu

        failed = examine_gpu(folder, json, config, batch) if gpu else examine(folder, json, quick=quick)
        if failed:
            raise typer.Exit(1)
