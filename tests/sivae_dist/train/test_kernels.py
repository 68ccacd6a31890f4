"""The form of the layers that a run uses, where there is a C++ compiler and where there is none."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.engines import compiling
from sivae_dist.models.layers import forms
from sivae_dist.models.layers.native import library
from sivae_dist.train.kernels import choose_kernels
from sivae_dist.train.trainer import Trainer
from tests.helpers import CPU, begin, tiny_settings, train


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    library._library.cache_clear()
    yield
    library._library.cache_clear()


def start(run: Path, data: Path, *assignments: str) -> Trainer:
    return begin(run, tiny_settings(data, "checkpoint.every=16", *assignments))


def begun(run: Path, data: Path, *assignments: str) -> Path:
    trainer = train(start(run, data, *assignments), steps=2)
    trainer.checkpoints.saver.wait()
    trainer.close()
    return run


def recorded(run: Path) -> str | None:
    found, _ = CheckpointFolder(run / "checkpoints").newest_valid()
    assert found is not None
    return found.meta.kernels


def test_a_run_needs_the_kernels_that_it_has_been_trained_with(
    data: Path, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(tmp_path / "run", data)
    assert recorded(run) == "native"
    request.getfixturevalue("no_compiler")
    with pytest.raises(
        ValueError, match="trained with native kernels, which are not possible here: there is no C\\+\\+"
    ):
        start(run, data)
    with pytest.raises(ValueError, match="kernels=native is not possible: there is no C"):
        start(run, data, "engine.kernels=native")
    start(run, data, "engine.kernels=fused").close()
    assert "trained with native kernels and continues with fused ones: not bit for bit" in capsys.readouterr().out


def test_a_run_that_began_without_a_compiler_goes_on_as_it_began(
    data: Path, tmp_path: Path, no_compiler: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begun(tmp_path / "run", data)
    assert recorded(run) == "fused"
    library._library.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/usr/bin:/bin")
        assert library.usable()
        capsys.readouterr()
        start(run, data).close()
    assert forms.current() == "fused"
    assert "warning" not in capsys.readouterr().out


def as_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's compiler finds all that it needs, and changes nothing."""
    monkeypatch.setattr(compiling, "why_not", lambda device: "")
    monkeypatch.setattr("sivae_dist.engines.ddp.compile_objective", lambda objective: None)
    monkeypatch.setattr("sivae_dist.train.ahead.Ahead.start", lambda *_: None)


def test_a_run_that_was_compiled_is_not_continued_otherwise_by_mistake(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_compiled(monkeypatch)
    run = begun(tmp_path / "run", data, "engine.compile=true")
    assert recorded(run) == "compiled"
    capsys.readouterr()
    start(run, data, "engine.compile=true").close()
    assert "warning" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="compile=true: set it again, or name the kernels"):
        start(run, data, "engine.compile=false")
    start(run, data, "engine.compile=false", "engine.kernels=fused").close()
    assert forms.current() == "fused"
    assert "trained with compiled kernels and continues with fused ones: not bit for bit" in capsys.readouterr().out


def test_a_run_with_other_kernels_may_be_compiled_from_then_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_compiled(monkeypatch)
    run = begun(tmp_path / "run", data)
    assert recorded(run) == "native"
    start(run, data, "engine.compile=true").close()
    assert forms.current() == "compiled"
    assert "trained with native kernels and continues with compiled ones" in capsys.readouterr().out


@pytest.mark.parametrize("kernels", ["plain", "fused", "native"])
def test_compiled_objectives_have_kernels_of_their_own(data: Path, kernels: str) -> None:
    with pytest.raises(ValueError, match=f"compile=true fuses the layers itself: remove kernels={kernels}"):
        tiny_settings(data, "engine.compile=true", f"engine.kernels={kernels}")


def test_torch_compiles_nothing_without_a_compiler(data: Path, tmp_path: Path, no_compiler: None) -> None:
    with pytest.raises(ValueError, match="compile=true is not possible: there is no C\\+\\+ compiler") as refused:
        start(tmp_path / "run", data, "engine.compile=true")
    assert "\n" not in str(refused.value)
    assert "no C compiler" in compiling.why_not(torch.device("cuda"))


def test_checkpoints_of_older_releases_are_continued_with_a_warning(data: Path, tmp_path: Path) -> None:
    run = begun(tmp_path / "run", data)
    found, _ = CheckpointFolder(run / "checkpoints").newest_valid()
    assert found is not None
    (warning,) = choose_kernels(tiny_settings(data).engine, CPU, replace(found.meta, kernels=None))
    assert "older release" in warning
    assert forms.current() == "native"
    plain = tiny_settings(data, "engine.kernels=plain").engine
    assert choose_kernels(plain, CPU, replace(found.meta, kernels=None)) == []
    assert forms.current() == "plain"
