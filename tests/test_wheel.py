"""The wheel works outside the checkout, configurations included."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sivae_dist import __version__
from tests.command import ENVIRONMENT, ROOT

pytestmark = pytest.mark.slow

SOURCES = ("data_pipelines", "sivae_dist", "launch", "configs", "pyproject.toml", "README.md", "LICENSE")


def test_wheel_outside_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    for name in SOURCES:  # a copy, as building leaves traces
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / "sources" / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), "."]
    subprocess.run(build, cwd=tmp_path / "sources", check=True, timeout=120, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
        names = archive.namelist()
        points = next(archive.read(name) for name in names if name.endswith("entry_points.txt"))
    assert not [name for name in names if name.startswith(("tests/", "configs/"))]
    assert {f"{package}/py.typed" for package in ("data_pipelines", "sivae_dist", "launch")} <= set(names)
    assert {"sivae_dist/config/keys.json", "sivae_dist/models/layers/native/kernels.cpp"} <= set(names)
    assert b"sivae = launch.cli:main" in points
    assert wheel.name.startswith(f"sivae-{__version__}-")
    assert any(name.endswith("LICENSE") for name in names)
    shown = subprocess.run(
        [sys.executable, "-P", "-m", "launch.cli", "config", "show", "official/ffhq256"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "variant: official" in shown.stdout
