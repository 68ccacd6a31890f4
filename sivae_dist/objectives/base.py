"""The contract of an objective: its settings, which describe it, and one module per player that returns its turn.

To add one, subclass `Objective` (or one of ours), say by `build` what encoder and decoder minimise, and put the class
into the list, under the name by which a configuration chooses it:

    @OBJECTIVES.add("soft_tv")
    class SoftTvSettings(SoftIntroSettings):
        name: Literal["soft_tv"] = "soft_tv"

A turn (`EncoderTurn`, `DecoderTurn`) is the loss, the terms, which are logged by their names, and of the encoder what
crosses over to the decoder. The terms of sivae_dist/run/terms.py are shown by `sivae status`.
All that the program shows of an objective or warns of comes from its class; no other file knows it by name.

Of each pair of modules, the player's own network is a submodule; its partner and the distance are plain references, so
that the module's parameters are the player's alone. That is what DDP, DeepSpeed and torch.compile expect, and it halves
what is communicated. Whoever calls freezes the partner for the player's turn. All passes happen inside one forward, so
one forward meets one backward.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from sivae_dist.models.base import Decoder, Encoder, Network
from sivae_dist.models.layers.batch_norm import BatchStatistics, Over, Statistics, normalizing
from sivae_dist.models.layers.scaled import sharing
from sivae_dist.models.stage import Cond, Mixing
from sivae_dist.objectives.distances import Distance
from sivae_dist.settings import Settings

Weights = TypeVar("Weights")
"""The values of an objective's settings at one resolution."""

Terms = dict[str, Tensor]
"""Detached 0-dimensional means over the batch, by the name under which they are logged everywhere."""


class Draws(NamedTuple):
    """Everything random in one step, drawn beforehand (randomness.py), so that an objective is a pure function.

    The layer noise is used by both updates: Algorithm 2's lines 8 and 20 are one and the same decoding.
    """

    z: Tensor
    """[B, latent] ~ N(0, I): Z_f, line 6."""
    eps: Tensor
    """[B, 3, latent] ~ N(0, I): of the samples Z, Z_rf and Z_ff."""
    noise: Tensor | None = None
    """[B, 4, noise_size] ~ N(0, 1): layer noise of the decodings X_r, X_f, X_rf and X_ff."""
    mixing: Mixing | None = None
    """Style mixing of X_f."""

    def layer_noise(self, *decodings: int) -> Tensor | None:
        """The noise of the named decodings, one batch after the other: [len(decodings) * B, noise_size]."""
        if self.noise is None:
            return None
        return torch.cat([self.noise[:, index] for index in decodings])


class EncoderTurn(NamedTuple):
    """The result of Algorithm 2's first half, lines 4 to 16."""

    loss: Tensor
    """0-dimensional, to be minimised over the encoder's parameters."""
    terms: Terms
    crossing: Tensor
    """Z, line 5, detached: [B, latent]. Nothing else of the encoder's passes crosses over to the decoder."""
    statistics: Statistics = {}
    """Of the passes, for the running statistics of networks that have any; added by the objective's call."""


class DecoderTurn(NamedTuple):
    """The result of Algorithm 2's second half, lines 20 to 26."""

    loss: Tensor
    """0-dimensional, to be minimised over the decoder's parameters."""
    terms: Terms
    statistics: Statistics = {}
    """As the encoder's."""


EncoderInput = tuple[Tensor, Cond, Draws]
"""x [B, ...], cond and draws: what an encoder's objective is called with, for one micro-batch."""
DecoderInput = tuple[Tensor, Tensor, Cond, Draws]
"""x [B, ...], the encoder's `crossing` [B, latent], cond and draws, the same of a decoder's."""


def detached(terms: Terms) -> Terms:
    return {name: term.detach() for name, term in terms.items()}


class _Objective(nn.Module, Generic[Weights]):
    player: Network
    partner: Network
    distance: Distance
    """L_rec of Algorithm 2."""
    over: Over | None = None
    """The processes whose images are normalised together, by networks that do so; None: this one alone."""

    def __init__(
        self,
        weights: Weights,
        player: Network,
        partner: Network,
        distance: Distance,
        amp: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weights = weights
        self.player = player
        # Past nn.Module's own bookkeeping: neither may become a submodule.
        object.__setattr__(self, "partner", partner)
        object.__setattr__(self, "distance", distance)
        self.amp = amp

    def __call__(self, *inputs: Any) -> Any:
        with sharing({}):
            if self.player.tracks_statistics or self.partner.tracks_statistics:
                return self._with_statistics(*inputs)
            return super().__call__(*inputs)

    def _with_statistics(self, *inputs: Any) -> Any:
        statistics = BatchStatistics(self.over)
        with normalizing(statistics):
            turn = super().__call__(*inputs)
        return turn._replace(statistics=statistics.that_count(self.player, self.partner))

    def autocast(self, x: Tensor) -> AbstractContextManager[object]:
        """For the passes through the networks only; losses are computed in fp32 or wider."""
        return nullcontext() if self.amp is None else torch.autocast(x.device.type, dtype=self.amp)


class EncoderObjective(_Objective[Weights], ABC):
    """The encoder's, for Algorithm 2's first half."""

    player: Encoder
    partner: Decoder

    @abstractmethod
    def forward(self, x: Tensor, cond: Cond, draws: Draws) -> EncoderTurn:
        """x: [B, *shape(resolution)]."""


class DecoderObjective(_Objective[Weights], ABC):
    """The decoder's, for Algorithm 2's second half."""

    player: Decoder
    partner: Encoder

    @abstractmethod
    def forward(self, x: Tensor, z: Tensor, cond: Cond, draws: Draws) -> DecoderTurn:
        """x: [B, *shape(resolution)]; z: the encoder's `crossing` [B, latent]."""


class ModelOfRun(Protocol):
    """The part of the model's settings that an objective may use."""

    @property
    def resolutions(self) -> list[int]: ...
    @property
    def groups(self) -> Mapping[str, int]:
        """Named groups of z; empty without names."""

    @property
    def dimensions(self) -> int:
        """C H W of the final images."""

    @property
    def bounded(self) -> bool:
        """Whether all values of generated images lie inside [-1, 1]."""

    def shape(self, resolution: int) -> tuple[int, ...]:
        """Of one sample: (C, R, R) of an image."""


class EngineOfRun(Protocol):
    """The part of the engine's settings that an objective may use."""

    @property
    def max_batch_per_rank(self) -> int | dict[int, int] | Literal["auto"] | None: ...


class Run(Protocol):
    """The settings of a run, as far as an objective may depend on them."""

    @property
    def model(self) -> ModelOfRun: ...
    @property
    def engine(self) -> EngineOfRun: ...


class Objective(Settings, ABC):
    """Settings of an objective, and what the rest of the program asks of it.

    `title`, `card` and `build` have to be written; the rest has defaults.
    """

    title: ClassVar[str]
    """Its name in figures and on the terminal."""
    card: ClassVar[str]
    """A phrase for the model card that describes a model trained with it: `A Soft-IntroVAE ([authors, year](link))`."""
    tags: ClassVar[tuple[str, ...]] = ()
    """Tags of the model card, the most specific one first."""
    legend: ClassVar[tuple[str, ...]] = ()
    """Lines below a dry run's table that explain `columns`."""
    panels: ClassVar[Mapping[str, tuple[str, ...]]] = {"loss": ("loss/encoder", "loss/decoder")}
    """The panels of the curves: the terms in each by its label. A term that a run does not log is left out."""

    name: str

    @property
    def warmup_images(self) -> int:
        """Images at the start of the run that train a plain VAE before this objective."""
        return 0

    @property
    def mixing_share(self) -> float:
        """Share of generated images with two styles."""
        return 0.0

    @abstractmethod
    def build(
        self,
        encoder: Encoder,
        decoder: Decoder,
        resolution: int,
        dimensions: int,
        *,
        warming_up: bool = False,
        amp: torch.dtype | None = None,
    ) -> tuple[EncoderObjective[Any], DecoderObjective[Any]]:
        """The modules of both players at `resolution`; `dimensions` is C H W of the final images.

        `warming_up`: those of the first `warmup_images`. `amp`: the type of passes through the networks, None for
        their own.
        """

    def check(self, run: Run) -> None:
        """ValueError when the rest of a run's settings does not go with this objective."""

    def prepare(self) -> str | None:
        """Gets what `build` needs beside the settings, such as files, onto this machine. Returns a checksum of what it
        contains, which must stay the same in a run, None where there is nothing.

        ValueError, in one line, when it cannot be had or is not what is expected.
        """
        return None

    def feature_values(self, shape: tuple[int, ...]) -> int:
        """Values that networks of its own keep of a sample of this shape, beside those of encoder and decoder."""
        return 0

    def located(self, absolute: Callable[[str], str]) -> Self:
        """The same settings with every path of a file made absolute."""
        return self

    def check_length(self, images: int) -> str | None:
        """A warning about a run of so many images, or None. ValueError when it cannot be meant."""
        return None

    def columns(self, resolution: int, dimensions: int) -> dict[str, str]:
        """Cells of a dry run's row for a phase at `resolution`, by the heading of their column."""
        return {}

    def remarks(self, resolution: int, dimensions: int) -> dict[str, str]:
        """Of own keys, comments that `sivae configure` writes beside their values for final images of `resolution`."""
        return {}

    def brief(self, terms: Mapping[str, float]) -> list[Sequence[str]]:
        """The terms that the terminal shows, most important first, each in its variants, the longest first."""
        return []

    def fault(self, terms: Mapping[str, float]) -> str | None:
        """What is wrong with a logged row, None when nothing is; a warning once 20 rows in a row have the same fault.

        The text is constant and names terms in braces, as in `KL(real) is {kl/real:.1f}`, for their last values.
        """
        return None
