"""Weights are found, checked, and read without running what is in them; only those of 2015 give an FID."""

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sivae_dist.evaluation.extractors import make_extractor
from sivae_dist.evaluation.extractors import weights as files
from sivae_dist.evaluation.extractors.networks import RandomInception
from sivae_dist.evaluation.metrics import METRICS
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.published import WeightsError
from tests.bombs import write_bomb
from tests.helpers import CPU


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the right form, with random numbers."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(RandomInception("inception-v3-random", ["64"]).state_dict(), path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def published(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The genuine weights are to be had at `url`, whose name has their checksum."""
    monkeypatch.setattr(files, "INCEPTION", replace(files.INCEPTION, url=url))


def settings(**values: Any) -> EvaluationSettings:
    return EvaluationSettings.model_validate({"layer": "64", **values})


def test_the_random_one_is_the_same_everywhere() -> None:
    first, second = (make_extractor(settings(extractor="inception-v3-random"), CPU) for _ in range(2))
    assert first.sha256 == second.sha256 and first.name == "inception-v3-random:64" and not first.genuine
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 20, 20), generator=generator, dtype=torch.uint8)
    features = first.features(images)
    assert features.shape == (3, 64) and features.dtype == torch.float32
    torch.testing.assert_close(features, second.features(images), rtol=0, atol=0)
    # Grey images count as three equal colours.
    torch.testing.assert_close(first.features(images[:, :1]), first.features(images[:, :1].repeat(1, 3, 1, 1)))
    assert not first.network.training and not any(p.requires_grad for p in first.network.parameters())


def test_other_weights_need_their_checksum_and_give_no_fid(weights: Path) -> None:
    with pytest.raises(
        WeightsError, match=rf"not those of 2015 \(6726825d\.\.\.\) but {sha256(weights)}: .*not called"
    ):
        make_extractor(settings(weights=str(weights), layer="2048"), CPU)
    with pytest.raises(WeightsError, match=r"are not evaluation\.sha256=0123456789 but"):
        make_extractor(settings(weights=str(weights), sha256="0123456789"), CPU)
    found = make_extractor(settings(weights=str(weights), sha256=sha256(weights), layer="2048"), CPU)
    assert found.name == f"inception-v3-compat-{sha256(weights)[:8]}" and not found.genuine
    assert METRICS["fid"].reported("fid", found.label) == f"frechet_distance[{found.name}]"
    assert METRICS["kid"].reported("kid", found.label) == f"kernel_distance[{found.name}]"


@pytest.mark.parametrize(("layer", "name"), [("2048", "fid"), ("768", "frechet_distance[inception-v3-compat:768]")])
def test_those_of_2015_give_fid_in_their_last_layer(
    weights: Path, monkeypatch: pytest.MonkeyPatch, layer: str, name: str
) -> None:
    published(monkeypatch, f"http://127.0.0.1:1/weights-{sha256(weights)[:8]}.pth")
    found = make_extractor(settings(weights=str(weights), layer=layer), CPU)
    assert METRICS["fid"].reported("fid", found.label) == name
    assert found.sha256 == sha256(weights)
    assert all(
        torch.equal(tensor, found.network.state_dict()[key])
        for key, tensor in torch.load(weights, weights_only=True).items()
    )
    assert not found.network.training


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_what_is_pickled_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    write_bomb(path, form, "fc.bias")
    with pytest.raises(WeightsError, match=r"weights\.pth cannot be used \(UnpicklingError") as error:
        make_extractor(settings(weights=str(path), sha256=sha256(path)), CPU)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exploded").exists()
    with contextlib.suppress(TypeError, RuntimeError):
        torch.load(path, weights_only=False)
    assert (tmp_path / "exploded").exists()  # it was a bomb


@pytest.mark.parametrize("content", [{}, {"odd": torch.zeros(1)}, [1]])
def test_files_that_are_something_else(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"weights\.pth cannot be used \(.*\)") as error:
        make_extractor(settings(weights=str(path), sha256=sha256(path)), CPU)
    assert "\n" not in str(error.value)


def test_without_weights_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    name = files.INCEPTION.name
    published(monkeypatch, f"http://127.0.0.1:1/{name}")
    where = tmp_path / "hub" / "hub" / "checkpoints"
    with pytest.raises(
        WeightsError,
        match=rf"^FID needs {name}, .*\(2 tries\).*put it into {where}, or .*evaluation\.weights",
    ) as error:
        make_extractor(settings(), CPU)
    assert "\n" not in str(error.value)
    assert [path.name for path in where.iterdir()] == [f"{name}.lock"]


@pytest.mark.slow
def test_download(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.web import Web, corrupt

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    name = f"weights-{sha256(weights)[:8]}.pth"
    (tmp_path / name).symlink_to(weights)
    with Web(tmp_path) as web:
        published(monkeypatch, f"{web.url}/{name}")
        web.fault(name, corrupt, 1)
        with pytest.raises(WeightsError, match="the downloaded file has the wrong checksum"):
            make_extractor(settings(), CPU)
        for _ in range(2):
            assert make_extractor(settings(), CPU).sha256 == sha256(weights)
        assert web.requests[name] == 2


def test_a_configured_file_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"evaluation\.weights: there is no file {tmp_path}/x\.pth"):
        make_extractor(settings(weights="$WHERE/x.pth"), CPU)


@pytest.mark.parametrize("value", ["abc", "ABCDEF0123", "0123456z"])
def test_settings_refuse_what_is_no_checksum(value: str) -> None:
    with pytest.raises(ValueError, match="at least 8 lower-case hexadecimal digits"):
        settings(sha256=value)
