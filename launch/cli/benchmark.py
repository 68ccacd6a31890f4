"""`sivae benchmark`: the constants of this machine, for `sivae plan --machine`."""

from pathlib import Path
from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import Device, expanded
from sivae_dist.process import startup


def benchmark(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The JSON file to write.", callback=expanded)],
    device: Device = "auto",
    precision: Annotated[
        str | None,
        typer.Option(metavar="fp32,tf32,bf16,fp64", help="Precisions; by default fp32 and bf16, and tf32 on a GPU."),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of a process on a CPU. With 1, CPU seconds are measured.")
    ] = 1,
) -> None:
    """Measure this machine in a minute or two: convolutions, matrix products, element-wise operations and copies."""
    with one_line_errors(), startup.loading("PyTorch"):
        from launch.forecast.command import benchmark_machine

        benchmark_machine(out, device, precision, threads)
