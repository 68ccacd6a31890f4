"""The `sivae` command: a file for each group of commands, heavy imports inside the commands so that help is instant."""

import typer

from launch.cli import checkpoints, config, curves, data, draw, evaluate, export, jobs, pictures, submit, sweep, train

app = typer.Typer(
    help="Train Soft-IntroVAE at high resolution on many GPUs and nodes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")
data.app.command("draw")(draw.draw)
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
app.command()(pictures.growth)
app.command()(pictures.animate)
app.command()(curves.curves)
app.command()(export.export)
app.command()(checkpoints.checkpoints)


def main() -> None:
    """Entry point of `sivae`."""
    app(prog_name="sivae")
