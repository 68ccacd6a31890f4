"""Weights of VGG16 are found, checked, read without running what is in them, and kept as safetensors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sivae_dist.perceptual import weights
from sivae_dist.perceptual.weights import CAFFE, SHAPES, TORCHVISION, VGG16, VggFiles, find_weights, random_weights
from sivae_dist.published import WeightsError
from tests.bombs import write_bomb
from tests.helpers import on_processes
from tests.sivae_dist.perceptual.files import keep_in, publish, sha256, write


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    write(path, scale=0.5)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return keep_in(monkeypatch, tmp_path / "kept")


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert weights.folder() == Path("/there/sivae-weights")


def refused(path: Path | None, words: str, sha256: str | None = None) -> None:
    with pytest.raises(WeightsError, match=words) as error:
        find_weights(VggFiles(None if path is None else str(path), sha256))
    assert "\n" not in str(error.value)


def test_what_torchvision_publishes() -> None:
    from torchvision.models import VGG16_Weights, vgg16

    features, usual = VGG16_Weights.IMAGENET1K_FEATURES, VGG16_Weights.IMAGENET1K_V1
    assert VGG16.url == features.url and VGG16.digits == "88682ab5" and "397923af" in usual.url
    assert usual.transforms().mean == [m / 255 for m in TORCHVISION.mean]
    assert usual.transforms().std == pytest.approx([d / 255 for d in TORCHVISION.deviation])
    assert features.transforms().mean == pytest.approx([m / 255 for m in CAFFE.mean], abs=0.7 / 255)  # whole numbers
    assert features.transforms().std == pytest.approx([d / 255 for d in CAFFE.deviation])
    with torch.device("meta"):
        state = vgg16().features.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == SHAPES


def test_a_file_is_read_once_and_its_convolutions_are_kept(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "mine.pth"
    digest = write(path, scale=0.5)
    first = find_weights(VggFiles(str(path), digest[:10]))
    kept = cache / f"vgg16-{digest}.safetensors"
    assert {*load_file(kept)} == {*SHAPES} and first.preprocessing == TORCHVISION
    expected = random_weights().state
    assert all(torch.equal(first.state[name], 0.5 * expected[name]) for name in SHAPES)
    path.unlink()
    for files in (VggFiles(None, digest[:8]), VggFiles(str(kept), digest)):
        again = find_weights(files)
        assert again.digest == first.digest and again.preprocessing == TORCHVISION
        assert all(torch.equal(again.state[name], first.state[name]) for name in SHAPES)


def test_another_file_needs_its_checksum(source: Path, cache: Path) -> None:
    digest = sha256(source)
    refused(source, rf"not those of Simonyan and Zisserman \(88682ab5\.\.\.\) but {digest}: .*objective\.vgg_sha256=")
    refused(source, r"are not objective\.vgg_sha256=0123456789 but", "0123456789")
    assert not cache.exists()
    find_weights(VggFiles(str(source), digest))
    kept = cache / f"vgg16-{digest}.safetensors"
    refused(kept, rf"not those of Simonyan and Zisserman \(88682ab5\.\.\.\) but {digest}: ")


def test_genuine_ones_want_the_images_of_caffe(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"http://127.0.0.1:1/vgg16-{sha256(source)[:8]}.pth")
    assert find_weights(VggFiles(str(source))).preprocessing == CAFFE
    assert find_weights(VggFiles()).preprocessing == CAFFE  # kept by now


def test_a_cut_file(source: Path, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(source.read_bytes()[:1_000_000])
    refused(path, r"cut\.pth cannot be used \(", sha256(path))
    assert not list(cache.glob("*.safetensors"))


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_copy(source: Path, cache: Path, damage: str) -> None:
    digest = sha256(source)
    find_weights(VggFiles(str(source), digest))
    (kept,) = cache.glob("*.safetensors")
    content = bytearray(kept.read_bytes())
    if damage == "cut":
        del content[30_000_000:]
    else:
        content[30_000_000] ^= 1
    kept.write_bytes(content)
    words = "cannot be used" if damage == "cut" else "are damaged: delete the file"
    refused(None, rf"vgg16-{digest}\.safetensors {words}", digest)
    kept.unlink()
    find_weights(VggFiles(str(source), digest))


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_what_is_pickled_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bomb.pth"
    write_bomb(path, form, "features.0.weight")
    refused(path, r"bomb\.pth cannot be used \(UnpicklingError", sha256(path))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "TypeError: a list, and no state dict"),
        ({"features.0.weight": 1}, "AttributeError"),
        ({}, "KeyError: 'features.0.weight'"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    refused(path, rf"odd\.pth cannot be used \({words}", sha256(path))


def test_safetensors_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    refused(path, r"odd\.safetensors cannot be used \(")


def test_tensors_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "wide.pth"
    digest = write(path, **{"features.2.weight": torch.zeros(64, 32, 3, 3)})
    refused(path, r"are not VGG16's: 2\.weight is \[64, 32, 3, 3\], not \[64, 64, 3, 3\]", digest)
    digest = write(path, **{"features.28.bias": torch.full((512,), torch.inf)})
    refused(path, r"wide\.pth are not finite: 28\.bias", digest)


def test_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "x.pth", rf"^objective\.vgg_weights: there is no file {tmp_path}/x\.pth$")
    url = "http://127.0.0.1:1/vgg16_features-amdegroot-88682ab5.pth"
    publish(monkeypatch, url)
    where = tmp_path / "hub" / "hub" / "checkpoints"
    refused(
        None,
        rf"^the perceptual distance needs vgg16_features-amdegroot-88682ab5\.pth, which could not be downloaded .*"
        rf"get it from {url} and put it into {where}, or set objective\.vgg_weights to its path$",
    )


@pytest.mark.slow
def test_it_is_downloaded_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.web import Web

    name = f"vgg16-{sha256(source)[:8]}.pth"
    (tmp_path / name).symlink_to(source)
    with Web(tmp_path) as web:
        publish(monkeypatch, f"{web.url}/{name}")
        first, second = (find_weights(VggFiles()) for _ in range(2))
        assert first.digest == second.digest and web.requests[name] == 1


@pytest.mark.slow
def test_processes_at_once_make_one_copy(source: Path, cache: Path) -> None:
    digests = on_processes(2, _found, str(source), sha256(source), str(cache))
    assert len({*digests}) == 1
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".safetensors"]


def _found(path: str, digest: str, cache: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        keep_in(patch, Path(cache))
        return weights.find_weights(VggFiles(path, digest)).digest
