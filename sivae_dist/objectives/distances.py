"""Distances between images, which objectives use as the reconstruction error L_rec.

To add one, subclass `Distance` and put the class into the list, under the name by which a configuration chooses it:

    @DISTANCES.add("huber")
    class Huber(Distance):
        def forward(self, target: Tensor, output: Tensor) -> Tensor:
            return torch.nn.functional.huber_loss(output, target, reduction="none").flatten(1).sum(1)

`objective.reconstruction=huber` then works wherever the module that says so has been imported, and so does a sum of
several, `objective.reconstruction={huber: 1, mse: 0.1}`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from data_pipelines.choices import Registry
from sivae_dist.models.base import Network
from sivae_dist.perceptual.images import feature_values, is_image
from sivae_dist.perceptual.weights import VggFiles, VggWeights, find_weights, random_weights

_PROBABILITY_EPS = 1e-6


class Distance(nn.Module, ABC):
    """[B, ...] and [B, ...] -> [B], in the precision of its arguments (fp32 or wider).

    That of an image is a sum over its values, as a likelihood is, or has a scale of its own, which is written down.

    A class is made without arguments, once for all objectives that use it at a time, on every process, and for the
    trace of the memory alike. Gradients must reach both arguments. Parameters and buffers are allowed: they are frozen,
    follow the networks' device, precision and memory format, and are outside what is trained, averaged, sent and saved.
    So their values must be the same on all processes and after a restart: read them from a file, or draw them from a
    generator with a seed of its own.
    """

    bounded: ClassVar[bool] = False
    """Whether both arguments must lie inside [-1, 1]. Images do; a run whose decoder's need not is refused."""
    mixed: ClassVar[bool] = False
    """Whether parameters are in the type of passes through networks, bf16 where engine.precision says so."""

    @abstractmethod
    def forward(self, target: Tensor, output: Tensor) -> Tensor:
        """The distances [B] of [B, ...] from [B, ...]."""

    @classmethod
    def made(cls, files: VggFiles, *, valued: bool) -> Self:
        """One of the class. `valued`: otherwise only shapes count, as in a trace. ValueError when a file is missing."""
        return cls()

    @classmethod
    def prepare(cls, files: VggFiles) -> str | None:
        """Gets the files that it needs; a checksum of their values, which stays the same in a run, None without any.

        ValueError, in one line, when they cannot be had or are not the expected ones.
        """
        return None

    @classmethod
    def takes(cls, shape: tuple[int, ...]) -> bool:
        """Whether samples of this shape, (C, H, W) for images, can be compared."""
        return True

    @classmethod
    def feature_values(cls, shape: tuple[int, ...]) -> int:
        """Values that its own network keeps of a sample of this shape; 0 without any."""
        return 0


class SquaredError(Distance):
    def forward(self, target: Tensor, output: Tensor) -> Tensor:
        return (output - target).square().flatten(1).sum(1)


class AbsoluteError(Distance):
    def forward(self, target: Tensor, output: Tensor) -> Tensor:
        return (output - target).abs().flatten(1).sum(1)


class CrossEntropy(Distance):
    """Cross entropy in nats, with values read as probabilities (x + 1) / 2."""

    bounded = True

    def forward(self, target: Tensor, output: Tensor) -> Tensor:
        probability = ((output + 1) / 2).clamp(_PROBABILITY_EPS, 1 - _PROBABILITY_EPS)
        truth = (target + 1) / 2
        error = -(truth * probability.log() + (1 - truth) * torch.log1p(-probability))
        return error.flatten(1).sum(1)


class RandomVgg(Distance):
    """The distance of `Vgg` in a network with random weights of a fixed seed, which needs no file. For tests."""

    mixed = True

    def __init__(self, weights: VggWeights | None = None) -> None:
        super().__init__()
        from sivae_dist.perceptual.vgg import VggDistance  # takes seconds

        self.network = VggDistance(weights)

    def forward(self, target: Tensor, output: Tensor) -> Tensor:
        distances: Tensor = self.network(target, output)
        return distances

    @classmethod
    def made(cls, files: VggFiles, *, valued: bool) -> Self:
        return cls(cls._weights(files) if valued else None)

    @classmethod
    def _weights(cls, files: VggFiles) -> VggWeights:
        return random_weights()

    @classmethod
    def takes(cls, shape: tuple[int, ...]) -> bool:
        return is_image(shape)

    @classmethod
    def feature_values(cls, shape: tuple[int, ...]) -> int:
        return feature_values(shape)


class Vgg(RandomVgg):
    """Mean absolute difference of VGG16's features, of five layers: LORD's loss of an image, in its own scale. Neither
    the number of features nor that of pixels enters: those are means."""

    @classmethod
    def _weights(cls, files: VggFiles) -> VggWeights:
        return find_weights(files)

    @classmethod
    def prepare(cls, files: VggFiles) -> str:
        return find_weights(files).digest


class WeightedSum(Distance):
    """The sum of distances, each times its weight."""

    def __init__(self, weights: Mapping[str, float], parts: list[Distance]) -> None:
        super().__init__()
        self.weights = list(weights.values())
        self.parts = nn.ModuleList(parts)

    def forward(self, target: Tensor, output: Tensor) -> Tensor:
        pairs = zip(self.weights, self.parts, strict=True)
        return torch.stack([weight * part(target, output) for weight, part in pairs]).sum(0)


DISTANCES: Registry[type[Distance]] = Registry(
    "distance", {"mse": SquaredError, "l1": AbsoluteError, "bce": CrossEntropy, "vgg": Vgg, "vgg-random": RandomVgg}
)

Reconstruction = str | dict[str, float]
"""The name of a distance, or the weights of a sum of several by their names."""

_made: WeakValueDictionary[tuple[object, ...], Distance] = WeakValueDictionary()
"""Those in use, so that all objectives of a process share one, with its weights."""


def kinds(chosen: Reconstruction) -> dict[str, type[Distance]]:
    """The classes that are used, by name."""
    return {name: DISTANCES[name] for name in ([chosen] if isinstance(chosen, str) else chosen)}


def make_distance(chosen: Reconstruction, files: VggFiles, network: Network, amp: torch.dtype | None) -> Distance:
    """The distance, frozen, where the network is, shared with whoever uses the same. `amp`: as of Objective.build."""
    place = next(network.parameters())
    if isinstance(place, FakeTensor):
        return _make(chosen, files, network, amp, valued=False)
    classes = tuple(kinds(chosen).values())
    key = (classes, repr(chosen), files, place.device, place.dtype, amp, network.map_format)
    made = _made.get(key)
    if made is None:
        made = _made[key] = _make(chosen, files, network, amp, valued=True)
    return made


def _make(
    chosen: Reconstruction, files: VggFiles, network: Network, amp: torch.dtype | None, *, valued: bool
) -> Distance:
    parts = []
    for kind in kinds(chosen).values():
        parts.append(kind.made(files, valued=valued))
        _place(parts[-1], network, amp)
    distance = parts[0] if isinstance(chosen, str) else WeightedSum(chosen, parts)
    return distance.eval()


def _place(distance: Distance, network: Network, amp: torch.dtype | None) -> None:
    """Freezes it, and puts it where the network is."""
    place = next(network.parameters())
    dtype = amp if distance.mixed and amp is not None else place.dtype
    for module in distance.modules():  # Module.to cannot exchange parameters where memory is traced
        for name, parameter in module.named_parameters(recurse=False):
            there = parameter.detach().to(place.device, dtype)
            if there.dim() == 4:
                there = there.contiguous(memory_format=network.map_format)
            setattr(module, name, nn.Parameter(there, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            kept = dtype if buffer.is_floating_point() else buffer.dtype
            setattr(module, name, buffer.to(place.device, kept))
