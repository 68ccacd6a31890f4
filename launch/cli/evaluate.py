"""`sivae evaluate`: measure the quality of a trained model."""

from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import Imports, Live, Overrides, Run
from sivae_dist.process import startup
from sivae_dist.process.output import outlast_watchers


def evaluate(
    run: Run,
    overrides: Overrides = None,
    checkpoint: Annotated[str, typer.Option(help="latest, best, or a number of images seen.")] = "latest",
    metrics: Annotated[
        str | None, typer.Option(help="Comma-separated names of metrics; those of the run's settings by default.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=2, help="Samples to draw from the prior.")] = None,
    live: Live = False,
    nproc: Annotated[int, typer.Option(min=0, help="Number of processes; 0 = one per GPU, or one without a GPU.")] = 0,
    imports: Imports = None,
) -> None:
    """Evaluate a checkpoint: FID, KID of samples, PSNR, SSIM, squared error of reconstructions; or metrics of points.

    Values are recorded in RUN/evaluation.jsonl and TensorBoard, with everything needed to reproduce them. KEY=VALUE
    sets evaluation.*, data.* or device.
    """
    with one_line_errors(), startup.loading("PyTorch"):
        outlast_watchers()
        from launch.launcher import start
        from sivae_dist.config.imports import import_all, recorded
        from sivae_dist.evaluation.request import Request
        from sivae_dist.process.devices import check_processes, default_processes
        from sivae_dist.run.directory import RunDirectory
        from sivae_dist.run.ends import STOPPED

        assignments = list(overrides or [])
        if metrics is not None:
            assignments.append(f"evaluation.metrics=[{metrics}]")
        if samples is not None:
            assignments.append(f"evaluation.samples={samples}")
        if live:
            assignments.append("evaluation.live=true")
        import_all(imports or ())
        own = tuple(recorded(name) for name in imports or ())
        request = Request(checkpoint=checkpoint, overrides=tuple(assignments), imports=own)
        directory = RunDirectory(run)
        settings = request.settings(directory)
        processes = nproc or default_processes(settings.device)
        check_processes(settings.device, processes)
        code = start([str(run), request.model_dump_json()], directory.evaluation_logs, processes)
    if code == STOPPED:
        typer.echo("stopped as asked; nothing was recorded", err=True)
    if code:
        raise typer.Exit(code)
