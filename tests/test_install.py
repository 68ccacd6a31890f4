"""`make env` gives a folder with `sivae`, as README says, and the image brings the GPUs in."""

import os
import subprocess
from pathlib import Path

from sivae_dist import __version__
from tests.command import ROOT


def test_the_folder_that_make_env_prints_holds_sivae(tmp_path: Path) -> None:
    made = subprocess.run(["make", "env"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    folder = Path(made.stdout.splitlines()[-1])
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "__init__.py").write_text("raise SystemExit('this is the launch of somebody else')")
    bare = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment = bare | {"PATH": f"{folder}:{os.environ['PATH']}"}
    for name, answer in {
        "sivae": f"sivae {__version__} ({ROOT})\n",
        "python": "",
        "tensorboard": "",
        "pip": "",
    }.items():
        done = subprocess.run(
            [name, "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
        assert done.stdout == answer or not answer
        assert subprocess.run(["sh", "-c", f"command -v {name}"], env=environment, capture_output=True, text=True,
                              timeout=120, check=True).stdout == f"{folder}/{name}\n"  # fmt: skip


def test_the_image_asks_for_gpus() -> None:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (environment,) = [line.split() for line in lines.splitlines() if line.startswith("ENV PATH=")]
    assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(environment)
