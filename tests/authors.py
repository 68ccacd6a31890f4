"""The authors' own code, for tests that compare with it: a clone that the environment names in SIVAE_AUTHORS."""

import os
from pathlib import Path

import pytest

AUTHORS = Path(os.environ.get("SIVAE_AUTHORS", "none"))
"""The clone of their repository, where there is one."""

needs_authors = pytest.mark.skipif(
    "SIVAE_AUTHORS" not in os.environ, reason="SIVAE_AUTHORS names no clone of the authors' repository; CONTRIBUTING.md"
)
