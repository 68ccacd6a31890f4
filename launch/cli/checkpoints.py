"""`sivae checkpoints`: the checkpoints that a run has on disk."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from sivae_dist.process import startup


def checkpoints(
    run: Annotated[Path, typer.Argument(help="A run's directory.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare it with its checksum.")] = False,
) -> None:
    """List a run's checkpoints, oldest first; changes nothing. Exits with 1 if one is damaged."""
    with one_line_errors(), startup.importing():
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table

        from data_pipelines.stages import pixels
        from sivae_dist.checkpoint import Checkpoint, CheckpointFolder, DamagedError, kept_of
        from sivae_dist.config.opening import settings_of
        from sivae_dist.run.directory import RunDirectory

        directory = RunDirectory(run)
        settings = settings_of(directory)
        folder = CheckpointFolder(directory.checkpoints)
        kept = kept_of(folder.readable(), settings.checkpoint)
        sized = any(map(pixels, settings.model.resolutions))
        table = Table("images", *["px"] * sized, "written", "MB", "files", "by", "stays as", "state", box=SIMPLE)
        damaged = []
        for path in folder.paths():
            try:
                checkpoint = Checkpoint.read(path)
                if verify:
                    checkpoint.verify()
            except DamagedError as error:
                damaged.append(str(error))
                table.add_row(path.name, *[""] * (5 + sized), "damaged")
                continue
            meta, manifest = checkpoint.meta, checkpoint.manifest
            written = datetime.fromtimestamp(path.stat().st_mtime)
            table.add_row(
                f"{checkpoint.images:,}", *[f"{meta.resolution}"] * sized, f"{written:%Y-%m-%d %H:%M:%S}",
                f"{checkpoint.bytes / 1e6:,.1f}", str(len(manifest["files"])), f"{manifest['world_size']} process(es)",
                kept.get(path, "goes with the next"), "whole" if verify else "complete",
            )  # fmt: skip
        aside = sorted(folder.damaged.glob("*")) if folder.damaged.is_dir() else []
        console = Console()
        if not console.is_terminal:
            console.width = max(console.width, 140)  # a file has no width to fit into
        if table.row_count:
            console.print(table)
        else:
            typer.echo(f"{run} has no checkpoint yet")
        for message in damaged:
            typer.echo(message)
        for path in aside:
            typer.echo(f"moved aside as damaged: {path}")
        if damaged:
            typer.echo(
                f"error: {len(damaged)} damaged; a start moves aside those newer than the newest whole one", err=True
            )
            raise typer.Exit(1)
