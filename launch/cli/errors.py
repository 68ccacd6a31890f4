"""How a command ends on an error that its user can fix."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def one_line_errors(on_interrupt: str = "interrupted") -> Iterator[None]:
    """ValueError and OSError end the command with `error: ...` and code 1, Ctrl-C with `on_interrupt` and code 130."""
    try:
        yield
    except BrokenPipeError:  # `| head` has read enough: click ends the command silently
        raise
    except (ValueError, OSError) as error:
        from pydantic import ValidationError

        from data_pipelines.problems import problems

        text = str(error)
        if isinstance(error, ValidationError):
            text = "\n".join(map(str, problems(error)))
        elif isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{os.fsdecode(error.filename)}: {error.strerror}"
        for line in text.splitlines() or [type(error).__name__]:
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(on_interrupt, err=True)
        raise typer.Exit(130) from None
