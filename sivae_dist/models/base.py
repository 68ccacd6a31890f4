"""The contract of a model: all that the rest of the program knows about an encoder and a decoder.

A family is a folder beside this file, or a module anywhere, with three things:

- a `ModelSettings`, which says what the data must look like and makes the networks, added to a list:
  `@MODELS.add("mlp")`. Its fields are the keys under `model:` in a configuration.
- an `Encoder`, called as `encoder(x, cond) -> (mu, logvar)` of a diagonal Gaussian, both [B, latent] in fp32 or wider.
- a `Decoder`, called as `decoder(z, cond, noise) -> x`, in fp32 or wider.

What they may rely on, and what is relied upon:

- **Stages.** A growing network stands at one of `settings.resolutions`, a fixed one has a single entry there; for
  samples without a resolution, such as points, that is 1 (ONLY_STAGE), which is not shown as a number of pixels. A
  sample has `settings.shape(resolution)`. `parts_in_use` names the submodules that a pass at a stage goes through: only
  their parameters are trained, averaged and reduced over processes.
- **Groups.** z may consist of named groups, `settings.groups`, as codes of class and content; `encoder.groups` says the
  same.
- **Labels.** A model whose `classes` is not 0 gets those of the images as `cond.label`, in every pass; latents of the
  prior have the labels of the batch that they are drawn for. conditional.py has what such families share.
- **Further inputs.** A model whose `inputs` names any gets them as `cond.extra`, by name: samples of their own, as x,
  which the data set gives for every position (data_pipelines/dataset.py), in the run's type and blended as x is. They
  come with real samples in training only: not with generated ones, not to decoders, and not outside training (previews,
  evaluation, use). An encoder that takes one must therefore do without it, and sees x itself in its place. The inputs
  of all samples in a pass are there, or none.
- **Randomness.** Nothing is drawn inside a network. What a decoding needs beside z comes in as `noise`, a flat
  [B, noise_size(resolution)] from N(0, 1), drawn by position of the run (step/randomness.py).
- **Samples are independent.** Row k of an output depends on row k of the inputs alone, so that passes may be
  concatenated and a batch may be divided among micro-batches and processes without a change of the result. A network
  with statistics over its batch says `concatenates = False`: it sees one kind of images in each pass, and what it
  learns depends on how many images a process takes at once.
- **Buffers** are constants, and a network that has any says so by `constant_buffers = True`; `build` refuses others.
  One that is changed in a pass (running statistics) would move in passes that are not part of a step: previews,
  discarded backwards, refused steps. Running statistics are those of layers/batch_norm.py's BatchNorm2d, which an
  engine moves when its step is taken, and `tracks_statistics = True` says that there are no other buffers. The first
  pass of an objective's own network is taken for that of real images. Averages average them as they do weights,
  checkpoints hold both, and every process has them whole.
- **Types.** Weights are in the run's precision; inside bf16's autocast a network returns fp32 all the same.
- Initial weights follow from torch's generator, which `build` seeds; no network reads files or knows of processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sivae_dist.settings import Settings


class Network(nn.Module):
    """The common base of encoder and decoder."""

    checkpoint_activations = False
    """Whether activations are recomputed where that saves most; set from outside, and free to be ignored."""
    map_format: torch.memory_format = torch.channels_last
    """Memory format of the feature maps that a network makes itself; set from outside, and free to be ignored."""
    concatenates = True
    """Whether images of several kinds, as real and generated ones, may be in one batch without a change of any."""
    constant_buffers = False
    """Whether there are buffers, which nothing changes."""
    tracks_statistics = False
    """Whether there are buffers, all of them running statistics, which an engine moves."""

    def parts_in_use(self, resolution: int, blending: bool) -> list[nn.Module]:
        """The submodules that a pass at this stage goes through."""
        return [self]


class Encoder(Network):
    """forward(x [B, *shape(resolution)], cond) -> (mu, logvar), each [B, latent]."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: Mapping[str, int] = {}
        """Those of its settings."""


class Decoder(Network):
    """forward(z [B, latent], cond, noise=None) -> x [B, *shape(resolution)]; without noise, its mean."""

    def noise_size(self, resolution: int) -> int:
        """Values of noise that one decoding takes; 0 without any."""
        return 0

    def layer_count(self, resolution: int) -> int:
        """Styled layers in use, among which style mixing chooses its crossover; 0 without styles."""
        return 0


class ModelSettings(Settings, ABC):
    """The settings of a family. What is not a field here follows from the fields of the family."""

    name: str
    if TYPE_CHECKING:  # a field of most families; where it follows from other fields, a property

        @property
        def latent(self) -> int:
            """Dimensions of z."""

    saved_whole: ClassVar[bool] = False
    """Whether the networks hold no tensors but those that a checkpoint has of them, so that they may be made without
    values and filled from there."""

    @property
    @abstractmethod
    def resolutions(self) -> list[int]:
        """The stages from the first to the last, by the resolution of their images."""

    @abstractmethod
    def shape(self, resolution: int) -> tuple[int, ...]:
        """Shape of one sample of x at a stage: (C, R, R) for images."""

    @abstractmethod
    def networks(self) -> tuple[Encoder, Decoder]:
        """Encoder and decoder on torch's current device, with initial weights from its generator."""

    @property
    def classes(self) -> int:
        """Number of classes of the labels that the networks receive; 0 without labels."""
        return 0

    def named_classes(self) -> tuple[str, ...]:
        """Names of the classes by label: their numbers, where nothing else is known."""
        return tuple(map(str, range(self.classes)))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the further inputs that the encoder takes in training, such as SAME_CLASS; a data set without them
        is refused."""
        return ()

    def fitted(self, where: str, classes: tuple[str, ...]) -> Self:
        """The same settings with what follows from a data set: `classes`, the names of its labels, none without any.

        ValueError when they contradict it; `where` is its name in the message.
        """
        return self

    @property
    def is_fitted(self) -> bool:
        """Whether the settings say all that `fitted` could add."""
        return True

    @property
    def groups(self) -> Mapping[str, int]:
        """Named groups of z, in their order, with their dimensions, which together are `latent`; none where all of z is
        one. The KL divergence of each is logged, and may have weights of its own."""
        return {}

    @property
    def styled(self) -> bool:
        """Whether the decoder has styles, which may be mixed."""
        return False

    @property
    def batch_statistics(self) -> bool:
        """Whether the images of a batch are normalised together, so that a batch cannot be divided into parts."""
        return False

    @property
    def bounded(self) -> bool:
        """Whether x is inside [-1, 1] by construction."""
        return False

    @property
    def of_images(self) -> bool:
        """Whether samples are images (C, R, R). All others are drawn as points, by their first two values."""
        return len(self.shape(self.final_resolution)) == 3

    @property
    def dimensions(self) -> int:
        """Values of a final sample, C H W for images, whose inverse is the paper's s."""
        return prod(self.shape(self.final_resolution))

    @property
    def final_resolution(self) -> int:
        return self.resolutions[-1]

    @property
    def fewest_tensors(self) -> int:
        """Both networks have at least as many tensors; known without making them, which a foreign file may ask for."""
        return 1

    def feature_values(self, resolution: int) -> int:
        """A number to which the activations of one sample are proportional."""
        return prod(self.shape(resolution))

    def shapes(self) -> tuple[Encoder, Decoder]:
        """Both networks on the meta device, for their shapes and types."""
        with torch.device("meta"), _Undrawn():
            return self.networks()

    def blank(self) -> tuple[Encoder, Decoder]:
        """Both networks, to be filled with saved values (checkpoint/state.py), and without own ones if they may be."""
        return self.shapes() if self.saved_whole else self.build(0)

    def build(self, seed: int) -> tuple[Encoder, Decoder]:
        """Both networks on the CPU, their initial weights a function of the seed alone.

        ValueError when one has buffers and does not say that they are constant.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = self.networks()
        for network in networks:
            names = [name for name, _ in network.named_buffers()]
            if names and not (network.constant_buffers or network.tracks_statistics):
                raise ValueError(
                    f"{type(network).__name__} has buffers ({', '.join(names[:3])}{', ...' * (len(names) > 3)}), which "
                    "a pass must not change: remove them, or set constant_buffers = True if they are constants"
                )
        return networks


class _Undrawn(TorchFunctionMode):
    """Random weights are neither drawn nor scaled. On the meta device nothing is computed in any case, but before torch
    does nothing for the first time, it imports its compiler, which takes nearly as long as torch itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.randn:
            func = torch.empty
        elif func is Tensor.mul and isinstance(args[1], float) and args[0].is_floating_point():
            return args[0]
        return func(*args, **(kwargs or {}))
