"""The file of Inception's weights: found, downloaded, and checked before it is read."""

import hashlib
from contextlib import closing
from pathlib import Path

import torch
from filelock import FileLock
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from data_pipelines.images.transport import RemoteError, TransferSettings, insist, open_transport
from data_pipelines.settings import expand
from sivae_dist.evaluation.extractors.base import ExtractorError
from sivae_dist.run.atomic import replacing

WEIGHTS_NAME = URL_INCEPTION_V3.rpartition("/")[2]
WEIGHTS_SHA256 = WEIGHTS_NAME.removesuffix(".pth").rpartition("-")[2]
"""First digits of the checksum, which are part of the file's name."""

_DOWNLOAD = TransferSettings(retries=1, timeout=20)


def expected_at(configured: str | None) -> Path:
    """The path where the file should be: the configured one (evaluation.weights), else in torch's hub cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME if configured is None else Path(expand(configured))


def find_weights(configured: str | None) -> Path:
    """The file of weights: the configured one, else that in torch's hub cache, else downloaded into it.

    Raises ExtractorError when there is none.
    """
    path = expected_at(configured)
    if path.is_file():
        return path
    if configured is not None:
        raise ExtractorError(f"evaluation.weights: there is no file {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # of all processes that look for it at once one downloads
            if not path.is_file():
                _download(path)
    except OSError as error:
        raise ExtractorError(
            f"FID needs {WEIGHTS_NAME}, which could not be downloaded ({error}): get it from {URL_INCEPTION_V3} and "
            f"put it into {path.parent}, or set evaluation.weights to its path"
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
            raise RemoteError("the downloaded file has the wrong checksum")


def check_weights(path: Path, expected: str | None) -> str:
    """SHA-256 of a file of weights. Raises ExtractorError unless it starts with `expected`, or with WEIGHTS_SHA256."""
    found = _sha256(path)
    if not found.startswith(expected or WEIGHTS_SHA256):
        wanted = f"evaluation.sha256={expected}" if expected else f"those of 2015 ({WEIGHTS_SHA256}...)"
        raise ExtractorError(
            f"the weights {path} are not {wanted} but {found}: get the right file, or set "
            f"evaluation.sha256={found[:16]} to use it; its values are then not called FID"
        )
    return found


def is_of_2015(sha256: str) -> bool:
    """Whether weights with this checksum are the genuine ones."""
    return sha256.startswith(WEIGHTS_SHA256)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
