"""Networks that turn images into features, through torch-fidelity, from weights that are checked before they are read.

Only the weights of 2015 give a value that may be called FID (and KID); whatever else is used is named in the value's
name. torch-fidelity itself would unpickle a file of weights, which can run any code.
"""

import hashlib
import io
import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch_fidelity import register_feature_extractor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from data_pipelines.images.transport import RemoteError, TransferSettings, insist, open_transport
from data_pipelines.settings import expand
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.run.atomic import replacing

WEIGHTS_NAME = URL_INCEPTION_V3.rpartition("/")[2]
WEIGHTS_SHA256 = WEIGHTS_NAME.removesuffix(".pth").rpartition("-")[2]
"""The beginning of it, as the file's name has it."""

_RANDOM_SIDE = 139
"""Pixels; 299 would cost four times as much and mean no more."""

_DOWNLOAD = TransferSettings(retries=1, timeout=20)


class ExtractorError(ValueError):
    """An extractor cannot be had; one line says what is missing and where to put it."""


@dataclass(frozen=True)
class Extractor:
    """A frozen network in evaluation mode on a device."""

    name: str
    """Of the network and, unless they are those of 2015, of its weights; with the layer unless it is the last."""
    sha256: str
    """Checksum of the weights."""
    layer: str
    genuine: bool
    """Whether a distance in these features may be called FID or KID."""
    network: nn.Module

    @property
    def dimensions(self) -> int:
        return int(self.layer)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] in 0..255, C of 1 or 3 -> fp32 [B, dimensions]."""
        features: Tensor = self.network(images.expand(-1, 3, -1, -1))[0]
        return features


class RandomInception(FeatureExtractorInceptionV3):  # type: ignore[misc]  # torch-fidelity has no types
    """Inception-v3 with He-initialised random weights, the same everywhere. It judges nothing that a trained one does,
    but it needs no file and exercises all else."""

    INPUT_IMAGE_SIZE = _RANDOM_SIDE

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list, feature_extractor_weights_path=_serialized({}))

    def load_state_dict(self, *_: Any, **__: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.data.normal_(0, math.sqrt(2 / fan_in), generator=generator)
                if module.bias is not None:
                    module.bias.data.zero_()


register_feature_extractor("inception-v3-random", RandomInception)


def make_extractor(settings: EvaluationSettings, device: torch.device) -> Extractor:
    """The extractor that the settings name. Raises ExtractorError when its weights cannot be had or are others."""
    layer = settings.layer
    network: nn.Module
    if settings.extractor == "inception-v3-random":
        network = RandomInception(settings.extractor, [layer])
        name, sha256, genuine = str(settings.extractor), _digest(network.state_dict()), False
    else:
        path = find_weights(settings)
        sha256 = check_weights(path, settings.sha256)
        network = _load(path, settings.extractor, layer)
        of_2015 = sha256.startswith(WEIGHTS_SHA256)
        name, genuine = str(settings.extractor), of_2015 and layer == "2048"
        name += "" if of_2015 else f"-{sha256[:8]}"
    label = name if layer == "2048" else f"{name}:{layer}"
    return Extractor(label, sha256, layer, genuine, network.to(device).eval().requires_grad_(False))


def find_weights(settings: EvaluationSettings) -> Path:
    """The file of weights: the configured one, else that in torch's hub cache, else downloaded into it.

    Raises ExtractorError when there is none.
    """
    if settings.weights is not None:
        path = Path(expand(settings.weights))
        if not path.is_file():
            raise ExtractorError(f"evaluation.weights: there is no file {path}")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # of all processes that look for it at once one downloads
            if not path.is_file():
                _download(path)
    except OSError as error:
        raise ExtractorError(
            f"FID needs {WEIGHTS_NAME}, which could not be downloaded ({error}): get it from {URL_INCEPTION_V3} and "
            f"put it into {path.parent}, or say with evaluation.weights where it is"
        ) from None
    return path


def _download(path: Path) -> None:
    transport = open_transport(URL_INCEPTION_V3, _DOWNLOAD.timeout)
    with closing(transport), replacing(path) as partial:

        def attempt() -> None:
            with partial.open("wb") as file:
                file.writelines(transport.chunks())

        insist("it", attempt, _DOWNLOAD.delays, lambda delay: None)
        if not _sha256(partial).startswith(WEIGHTS_SHA256):
            raise RemoteError("what came has another checksum")


def check_weights(path: Path, expected: str | None) -> str:
    """SHA-256 of a file of weights. Raises ExtractorError unless it begins as expected, or as those of 2015."""
    found = _sha256(path)
    if not found.startswith(expected or WEIGHTS_SHA256):
        wanted = f"evaluation.sha256={expected}" if expected else f"those of 2015 ({WEIGHTS_SHA256}...)"
        raise ExtractorError(
            f"the weights {path} are not {wanted} but {found}: get the right file, or set "
            f"evaluation.sha256={found[:16]} to use it; its values are then not called FID"
        )
    return found


def _load(path: Path, name: str, layer: str) -> nn.Module:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # It loads nothing but files, unpickling them: what it gets here we have just written.
        network: nn.Module = FeatureExtractorInceptionV3(
            name, [layer], feature_extractor_weights_path=_serialized(state)
        )
        return network
    except Exception as error:  # whatever a file of the wrong kind makes torch raise
        first = str(error).strip().split("\n")[0]
        raise ExtractorError(f"the weights {path} cannot be used ({type(error).__name__}: {first})") from None


def _serialized(state: dict[str, Tensor]) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in state.values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
