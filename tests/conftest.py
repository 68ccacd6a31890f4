"""Fixtures of every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist


@pytest.fixture(autouse=True)
def no_group_is_left() -> Iterator[None]:
    """A process group that a test leaves behind would change what every later test sees."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
        pytest.fail("the test left a process group behind")
