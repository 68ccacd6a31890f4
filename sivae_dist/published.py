"""Files of weights that others have published: found, downloaded, and checked before they are read."""

import hashlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from data_pipelines.images.transport import RemoteError, TransferSettings, insist, open_transport
from data_pipelines.settings import expand
from sivae_dist.run.atomic import replacing

_DOWNLOAD = TransferSettings(retries=1, timeout=20)


class WeightsError(ValueError):
    """Weights are not to be had, or are not the expected ones; one line says what is missing and where to put it."""


@dataclass(frozen=True)
class PublishedFile:
    """A file whose name ends with the first digits of its SHA-256: `weights-0123abcd.pth`."""

    url: str
    user: str
    """What needs it, in messages."""
    genuine: str
    """What the right weights are called: `those of 2015`."""
    setting: str | None
    """The dotted key of the path of another place; None where it cannot be chosen."""
    digest_setting: str | None
    """The dotted key of the checksum of other weights; None where only these will do."""
    consequence: str = ""
    """The end of a sentence about the use of other weights."""

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def digits(self) -> str:
        """The first digits of its checksum."""
        return self.name.rpartition(".")[0].rpartition("-")[2]

    def expected_at(self, configured: str | None) -> Path:
        """Where the file should be: at the configured path, else in torch's hub cache."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name if configured is None else Path(expand(configured))

    def find(self, configured: str | None) -> Path:
        """The file: the configured one, else that in torch's hub cache, else downloaded into it.

        WeightsError when there is none.
        """
        path = self.expected_at(configured)
        if path.is_file():
            return path
        if configured is not None:
            raise WeightsError(f"{self.setting}: there is no file {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):  # of all processes that look for it at once one downloads
                if not path.is_file():
                    self._download(path)
        except OSError as error:
            raise WeightsError(
                f"{self.user} needs {self.name}, which could not be downloaded ({error}): get it from {self.url} and "
                f"put it into {path.parent}" + (f", or set {self.setting} to its path" if self.setting else "")
            ) from None
        return path

    def _download(self, path: Path) -> None:
        transport = open_transport(self.url, _DOWNLOAD.timeout)
        with closing(transport), replacing(path) as partial:

            def attempt() -> None:
                with partial.open("wb") as file:
                    file.writelines(transport.chunks())

            insist("it", attempt, _DOWNLOAD.delays, lambda delay: None)
            if not sha256_of(partial).startswith(self.digits):
                raise RemoteError("the downloaded file has the wrong checksum")

    def check(self, path: Path, expected: str | None) -> str:
        """SHA-256 of a file. WeightsError unless it starts with `expected`, or with `digits`."""
        found = sha256_of(path)
        self.check_digest(path, found, expected)
        return found

    def check_digest(self, path: Path, found: str, expected: str | None) -> None:
        """The same of a file whose checksum is known."""
        if not found.startswith(expected or self.digits):
            wanted = f"{self.digest_setting}={expected}" if expected else f"{self.genuine} ({self.digits}...)"
            instead = f", or set {self.digest_setting}={found[:16]} to use it{self.consequence}"
            raise WeightsError(
                f"the weights {path} are not {wanted} but {found}: get the right file"
                + (instead if self.digest_setting else "")
            )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the values of weights, in their order, whatever file they are in."""
    digest = hashlib.sha256()
    for tensor in state.values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def unusable(path: Path, error: Exception) -> WeightsError:
    """The error for a file that cannot be read as weights, in one line."""
    first = str(error).strip().split("\n")[0]
    return WeightsError(f"the weights {path} cannot be used ({type(error).__name__}: {first})")


def check_hexadecimal(value: str | None) -> str | None:
    """For a setting that has the first digits of a checksum. ValueError for anything else."""
    if value is not None and (len(value) < 8 or set(value) - set("0123456789abcdef")):
        raise ValueError("at least 8 lower-case hexadecimal digits are needed")
    return value
