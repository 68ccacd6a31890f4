"""The examples of docs/library.md, run one after the other as a reader would, and the public interface."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import sivae_dist
from sivae_dist.models import Stage
from sivae_dist.models.style import StyleSettings
from tests.command import ENVIRONMENT, ROOT
from tests.helpers import random_set

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL)


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    random_set(tmp_path / "data" / "mine", samples=40, resolution=32)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    train, use, told, data = EXAMPLES
    exec(train.replace("schedule.images=2k", "schedule.images=64"), names)
    assert names["finished"] is True and (tmp_path / "runs/mine/metrics.jsonl").is_file()
    exec(use, names)
    assert names["images"].shape == names["again"].shape == (16, 3, 32, 32)  # type: ignore[attr-defined]
    assert names["mu"].shape == (16, 32)  # type: ignore[attr-defined]
    model = StyleSettings(resolution=8, latent=4, base_width=4, conditional=True, class_names=("Bag", "Coat"))
    of_classes: dict[str, Any] = {"model": sivae_dist.Pretrained(model, *model.build(0), Stage(8), 0)}
    exec(told, of_classes)
    assert of_classes["coats"].shape == (16, 3, 8, 8)
    assert not torch.equal(of_classes["coats"], of_classes["model"].decode(of_classes["mu"], "Bag"))
    capsys.readouterr()
    exec(data, names)
    assert capsys.readouterr().out.splitlines() == [f"{k} {torch.Size([8, 3, 32, 32])} None" for k in (0, 8, 16, 24)]


def test_the_package_is_light_and_its_names_are_there() -> None:
    code = "import sys, sivae_dist; sivae_dist.RunDirectory; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert all(getattr(sivae_dist, name) is not None for name in sivae_dist.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        sivae_dist.nonsense  # noqa: B018
