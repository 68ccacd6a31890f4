"""A stand-in for squeue."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import ENVIRONMENT

Answer = Callable[[str], None]


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Makes squeue print what a real one rarely does."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def answer(text: str) -> None:
        command = folder / "squeue"
        command.write_text(f"#!/bin/sh\n{text}\n")
        command.chmod(0o755)

    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setitem(ENVIRONMENT, "PATH", os.environ["PATH"])
    return answer
