"""`sivae doctor`: whether this machine is ready to train, and a file about it that can be sent."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors


def doctor(
    folder: Annotated[Path, typer.Option("--dir", help="Where runs will be written; its file system is tried.")] = Path(
        "runs"
    ),
    json: Annotated[Path, typer.Option("--json", help="The report to write, which holds no secrets.")] = Path(
        "doctor.json"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="Look only; leave out the self-test of about a minute.")
    ] = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="The first ten minutes on a GPU: speed, memory, exactness, engines.")
    ] = False,
    config: Annotated[str, typer.Option(help="With --gpu: the configuration that is to be trained.")] = "ffhq256",
    batch: Annotated[
        int | None, typer.Option(min=1, help="With --gpu: images a process at the final resolution; else its share.")
    ] = None,
) -> None:
    """Examine this machine: packages, driver, GPUs, file system, SLURM, limits; then try the whole at a tiny size.

    Each line is ok, warn or fail with what to do. Code 1 when anything fails.
    """
    with one_line_errors():
        from launch.doctor.command import examine, examine_gpu

        failed = examine_gpu(folder, json, config, batch) if gpu else examine(folder, json, quick=quick)
        if failed:
            raise typer.Exit(1)
