"""`sivae config`: list the configurations, show one as resolved, and explain its settings."""

from typing import Annotated

import typer

from launch.cli.completion import keys
from launch.cli.errors import one_line_errors
from launch.cli.options import Config, Imports, Overrides, assigned

app = typer.Typer(help="Inspect configurations and their settings.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """List the configurations that come with sivae, with their hardware and expected results."""
    from rich.table import Table

    from launch.cli.tables import wide_console
    from sivae_dist.config.names import config_names, config_path, summary

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("name", "trains", "hardware", "expect"):
        table.add_column(title, overflow="fold", no_wrap=title == "name")
    for name in config_names():
        table.add_row(name, *summary(config_path(name)))
    wide_console().print(table, highlight=False, markup=False)


@app.command()
def show(config: Config, overrides: Overrides = None, imports: Imports = None) -> None:
    """Print every setting as resolved, defaults included."""
    with one_line_errors():
        from sivae_dist.config.run_settings import load_config

        typer.echo(load_config(config, assigned(overrides, imports=imports)).to_yaml(), nl=False)


@app.command()
def explain(
    key: Annotated[
        str, typer.Argument(help="A key like schedule.batch, or a group like schedule.", autocompletion=keys)
    ] = "",
    imports: Imports = None,
) -> None:
    """Explain a setting (values, default and meaning), list the settings of a group, or, without a key, the groups."""
    with one_line_errors():
        from sivae_dist.config.imports import import_all
        from sivae_dist.config.reference import explain as explained

        import_all(imports or ())
        for line in explained(key):
            typer.echo(line)
