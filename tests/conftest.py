"""Fixtures of every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from sivae_dist.models.layers import forms
from tests.checkpoints import contents
from tests.helpers import random_set

# pytest-xdist's processes inherit a width, to which commands would fit what they print into a pipe.
for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)
os.environ["no_proxy"] = "127.0.0.1,localhost"  # for tests/web.py


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """24 random pictures of 8 px, for reading only. A file whose tests need another set has a fixture of this name."""
    path = random_set(tmp_path_factory.mktemp("data") / "set")
    before = contents(path)
    yield path
    assert contents(path) == before, "a test has changed the data set that all share"


@pytest.fixture(autouse=True)
def no_group_is_left() -> Iterator[None]:
    """A process group that a test leaves behind would change what every later test sees."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
        pytest.fail("the test left a process group behind")


@pytest.fixture(autouse=True)
def layers_have_their_usual_form() -> Iterator[None]:
    """Whatever a run in the test has chosen for this process."""
    with forms.using(None):
        yield
