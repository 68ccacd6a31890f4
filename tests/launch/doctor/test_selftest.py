"""`sivae doctor` as a user meets it, and its self-test where something is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from launch import steps
from launch.cli import app
from launch.doctor import packages, selftest
from launch.doctor.selftest import SelfTest

CPU = torch.device("cpu")


@pytest.mark.slow
def test_doctor_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "requirements", lambda: {"": ["numpy>=2"]})  # importing all takes seconds
    report = tmp_path / "report.json"
    done = CliRunner().invoke(app, ["doctor", "--dir", str(tmp_path / "runs"), "--json", str(report)])
    content = json.loads(report.read_text())
    failed = [finding for finding in content["findings"] if finding["level"] == "fail"]
    assert done.exit_code == 0 and not failed, done.output
    details = " ".join(finding["detail"] for finding in content["findings"])
    assert "on 2 CPU processes over gloo against 1" in details
    assert "stopped, saved and resumed: equal bit for bit" in details
    assert "JPEG shard by libjpeg-turbo: 24 images" in details and "PNG shard by DALI" in details
    assert content["facts"]["torch"]["torch"] == torch.__version__ and content["facts"]["memory"]["total"] > 0
    assert not (tmp_path / "runs").exists()
    assert max(map(len, done.output.splitlines())) <= 80 or "https://" in done.output


def test_quick_leaves_the_self_test_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "requirements", lambda: {"": ["nowhere"]})
    monkeypatch.setattr(selftest, "SelfTest", None)
    done = CliRunner().invoke(app, ["doctor", "--quick", "--json", str(tmp_path / "report.json")])
    assert done.exit_code == 1 and "pip install 'nowhere'" in done.output and "Self-test" not in done.output


def test_a_step_that_differs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = steps.copied, []

    def unsteady(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        copy = real(tensors)
        calls.append(copy)
        if len(calls) == 2:
            next(iter(copy.values())).view(-1)[0] += 1e-15
        return copy

    monkeypatch.setattr(steps, "copied", unsteady)
    with SelfTest(CPU, 1, tmp_path) as test:
        (finding,) = test.step()
    assert finding.level == "fail" and next(iter(calls[0])) in finding.detail
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_that_resumes_differently_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SelfTest(CPU, 1, tmp_path) as test:
        train = test.train

        def other(path: Path, stop: Any = None) -> Any:
            if path.name == "resumed":  # as if something of the state had not been saved
                monkeypatch.setattr(test, "exactly", lambda: ["seed=1"])
                path = test.begin("elsewhere") if not (test.root / "elsewhere").exists() else test.root / "elsewhere"
                monkeypatch.setattr(
                    selftest, "last_tensors", lambda run, real=real: real(path if run.name == "resumed" else run)
                )
            train(path, stop)

        real = selftest.last_tensors
        monkeypatch.setattr(test, "train", other)
        (finding,) = test.resumed()
    assert finding.level == "fail" and "differs after stopping" in finding.detail
