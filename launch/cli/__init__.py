"""The `sivae` command: a file for each group of commands, heavy imports inside the commands so that help is instant."""

import atexit
import gc
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from launch.cli import (
    benchmark,
    checkpoints,
    config,
    configure,
    curves,
    data,
    doctor,
    draw,
    evaluate,
    export,
    figure,
    jobs,
    pictures,
    plan,
    submit,
    sweep,
    train,
    translate,
)
from launch.code import importing
from sivae_dist import __version__


class _Commands(TyperGroup):
    """Suggests the setting that an unknown option was probably meant to be."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if hasattr(error, "option_name") and hasattr(error, "possibilities") and _takes_settings(error):
                error.possibilities = [one for one in error.possibilities or () if one != "--help"]
                if not error.possibilities:
                    error.message += _hint(error.option_name)  # type: ignore[attr-defined]
            raise


def _takes_settings(error: Any) -> bool:
    return any(parameter.name == "overrides" for parameter in error.ctx.command.params)


def _hint(option: str) -> str:
    from data_pipelines.problems import did_you_mean, known_keys, nearest
    from sivae_dist.config.run_settings import RunSettings

    keys = nearest(option.lstrip("-"), known_keys(RunSettings))
    return f" (settings are given as KEY=VALUE{did_you_mean([f'{key}=VALUE' for key in keys])})"


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sivae {__version__} ({Path(__file__).resolve().parents[2]})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and its folder.")
    ] = False,
) -> None:
    """Train Soft-IntroVAE at high resolution on many GPUs and nodes."""


app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")
data.app.command("draw")(draw.draw)
app.command()(doctor.doctor)
app.command()(configure.configure)
app.command()(plan.plan)
app.command()(benchmark.benchmark)
app.command()(train.train)
app.command()(submit.submit)
app.command()(sweep.sweep)
app.command()(sweep.sweep_table)
app.command()(jobs.status)
app.command()(jobs.logs)
app.command()(jobs.cancel)
app.command()(evaluate.evaluate)
app.command()(pictures.sample)
app.command()(pictures.reconstruct)
app.command()(pictures.interpolate)
app.command()(translate.translate)
app.command()(pictures.growth)
app.command()(pictures.animate)
app.command()(curves.curves)
app.command()(figure.figure)
app.command()(export.export)
app.command()(checkpoints.checkpoints)


def main() -> None:
    """Entry point of `sivae`."""
    os.environ.update(importing(None))  # inherited by every child process
    atexit.register(gc.freeze)  # the system frees what is left; looking for garbage in it takes up to half a second
    app(prog_name="sivae")
