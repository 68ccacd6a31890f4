"""Weights of VGG16's convolutions: found or downloaded as torchvision has them, checked, and kept as safetensors.

The 13 convolutions are 59 MB of a file of 553 MB. They are kept in the user's cache folder under the checksum of the
file that they are from, so that this is read once on each machine, without running what might be pickled in it.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sivae_dist.published import PublishedFile, WeightsError, checksum, unusable
from sivae_dist.run.atomic import replacing

VGG16 = PublishedFile(
    url="https://download.pytorch.org/models/vgg16_features-amdegroot-88682ab5.pth",
    user="the perceptual distance",
    genuine="those of Simonyan and Zisserman",
    setting="objective.vgg_weights",
    digest_setting="objective.vgg_sha256",
)
"""torchvision's VGG16_Weights.IMAGENET1K_FEATURES: those that the authors of VGG trained with Caffe, as Keras has."""

_OUT = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Of the convolutions, among torchvision's layers."""

SHAPES: dict[str, tuple[int, ...]] = {
    f"{place}.{part}": shape
    for place, into, out in zip(_PLACES, (3, *_OUT), _OUT, strict=False)
    for part, shape in (("weight", (out, into, 3, 3)), ("bias", (out,)))
}
"""Of every tensor by its name in torchvision's `vgg16().features`."""


class Preprocessing(NamedTuple):
    """(pixel - mean) / deviation, of red, green and blue in 0..255."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


CAFFE = Preprocessing((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
"""That of VGG's authors, with Keras's digits."""
TORCHVISION = Preprocessing((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))
"""That of the networks that torchvision has trained, `vgg16-397923af.pth` among them."""


class VggFiles(NamedTuple):
    """Where weights come from, as configured (objective.vgg_weights, objective.vgg_sha256)."""

    path: str | None = None
    sha256: str | None = None
    """First digits of the checksum of torchvision's file; None: those of VGG16."""


class VggWeights(NamedTuple):
    """The convolutions of a network, and what its images have to look like."""

    state: Mapping[str, Tensor]
    """fp32, by the names of SHAPES."""
    preprocessing: Preprocessing
    digest: str
    """SHA-256 of the values."""


def random_weights() -> VggWeights:
    """He's initial values (He et al. 2015) from a fixed seed, with which features keep the size of images."""
    generator, state = torch.Generator().manual_seed(0), {}
    for name, shape in SHAPES.items():
        state[name] = torch.zeros(shape)
        if len(shape) == 4:
            state[name].normal_(0, math.sqrt(2 / math.prod(shape[1:])), generator=generator)
    return VggWeights(state, CAFFE, "random")


def find_weights(files: VggFiles) -> VggWeights:
    """The weights, from the cache folder if they were found before. WeightsError when there are none, or others."""
    return _find(VGG16, files)


def find_genuine() -> VggWeights:
    """Those of VGG's authors, whatever `objective.vgg_weights` says. WeightsError when there are none."""
    return _find(replace(VGG16, setting=None, digest_setting=None), VggFiles())


def _find(published: PublishedFile, files: VggFiles) -> VggWeights:
    kept = _find_kept(published, files)
    try:
        with safe_open(kept, "pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in SHAPES}
    except (SafetensorError, OSError) as error:
        raise unusable(kept, error) from None
    _check_shapes(kept, state)
    digest = checksum(state)
    if digest != about.get("sha256"):
        raise WeightsError(f"the weights {kept} are damaged: delete the file, and it is made again from its source")
    source = about.get("source_sha256", "")
    published.check_digest(kept, source, files.sha256)
    return VggWeights(state, CAFFE if source.startswith(published.digits) else TORCHVISION, digest)


def _find_kept(published: PublishedFile, files: VggFiles) -> Path:
    """The safetensors of the configured file, made from it if need be."""
    wanted = f"vgg16-{files.sha256 or published.digits}*.safetensors"
    if files.path is None and (known := sorted(folder().glob(wanted))):
        return known[0]
    source = published.find(files.path)
    if _is_kept(source):
        return source
    sha256 = published.check(source, files.sha256)
    kept = folder() / f"vgg16-{sha256}.safetensors"
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{kept}.lock"):
            if not kept.is_file():
                _keep(source, sha256, kept)
    except OSError as error:
        raise WeightsError(f"{kept}, with weights of {source}, cannot be written: {error}") from None
    return kept


def folder() -> Path:
    """`sivae-weights` in `$XDG_CACHE_HOME` or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sivae-weights"


def _is_kept(path: Path) -> bool:
    """Whether a file is one of ours: safetensors begin with the length of their header, which is JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _keep(source: Path, sha256: str, kept: Path) -> None:
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise TypeError(f"a {type(content).__name__}, and no state dict")
        state = {name: content[f"features.{name}"].float().contiguous() for name in SHAPES}
    except Exception as error:  # whatever a file of the wrong kind makes torch raise
        raise unusable(source, error) from None
    _check_shapes(source, state)
    with replacing(kept) as partial:
        save_file(state, partial, {"source_sha256": sha256, "sha256": checksum(state)})


def _check_shapes(path: Path, state: Mapping[str, Tensor]) -> None:
    for name, shape in SHAPES.items():
        found = state[name]
        if found.shape != shape or found.dtype != torch.float32:
            raise WeightsError(f"the weights {path} are not VGG16's: {name} is {list(found.shape)}, not {list(shape)}")
        if not found.isfinite().all():
            raise WeightsError(f"the weights {path} are not finite: {name}")
