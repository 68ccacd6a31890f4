"""`sivae config`: what a configuration comes to."""

from typing import Annotated

import typer

from launch.cli.errors import one_line_errors
from launch.cli.options import Imports, assigned

app = typer.Typer(help="Look into configurations.", no_args_is_help=True)


@app.command()
def show(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of one that comes with sivae.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    imports: Imports = None,
) -> None:
    """Print every setting as resolved, defaults included."""
    with one_line_errors():
        from sivae_dist.config.run_settings import load_config

        typer.echo(load_config(config, assigned(overrides, imports=imports)).to_yaml(), nl=False)
