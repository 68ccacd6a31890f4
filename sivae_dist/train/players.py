"""The two players of the game: both networks, their moving averages, and the engines that train them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sivae_dist.checkpoint.writing import share
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.engines import Engine, make_engine
from sivae_dist.engines.settings import EngineSettings
from sivae_dist.models import Decoder, Encoder
from sivae_dist.models.layers.batch_norm import Over
from sivae_dist.objectives import DecoderInput, DecoderTurn, EncoderInput, EncoderTurn
from sivae_dist.process.processes import everyone, on_first, rank, sum_over_processes, world_size
from sivae_dist.step.optimizer import Ema
from sivae_dist.step.schedule import Segment

EncoderEngine = Engine[Encoder, EncoderInput, EncoderTurn]
DecoderEngine = Engine[Decoder, DecoderInput, DecoderTurn]


def full_size(networks: Iterable[nn.Module]) -> int:
    """Bytes of a checkpoint of these networks once every parameter has been trained."""
    weights = sum(tensor.nbytes for network in networks for tensor in network.state_dict().values())
    return 4 * weights  # with their average, and Adam's two moments


def place(networks: Iterable[Encoder | Decoder], engine: EngineSettings, device: torch.device) -> None:
    """Puts networks onto a device, in the types and memory formats of training."""
    for network in networks:
        network.checkpoint_activations = engine.checkpoint_activations
        network.map_format = engine.map_format
        network.to(device, engine.dtype, memory_format=engine.weight_format)  # type: ignore[call-overload]


def prepared(settings: RunSettings) -> str | None:
    """Prepares the objective on all processes; returns the checksum of its files.

    ValueError when they are missing, and when processes have different ones.
    """
    prepare = settings.objective.prepare
    first = on_first(prepare)  # the others need not download it, nor look in vain
    digests = everyone(prepare)
    if digests != [first] * len(digests):
        raise ValueError("the processes have different weights for objective.reconstruction: give all the same file")
    return first


class Players:
    """Encoder and decoder on a device. What they hold by canonical name is what a checkpoint holds."""

    def __init__(self, settings: RunSettings, device: torch.device) -> None:
        self.settings = settings
        self.digest = prepared(settings)
        """Checksum of what the objective has from files."""
        encoder, decoder = settings.model.build(settings.seed)
        if settings.engine.max_batch_per_rank == "auto" and not (encoder.concatenates and decoder.concatenates):
            raise ValueError(
                f"model.name={settings.model.name} learns from statistics over a batch, which depend on "
                "engine.max_batch_per_rank: give a number, not auto"
            )
        place((encoder, decoder), settings.engine, device)
        self.encoder, self.decoder = encoder, decoder
        self.full_size = full_size(self.networks)
        """Bytes of `tensors` once every parameter has been trained."""
        common = (settings.engine, settings.optimizer, settings.ema)
        self.encoder_engine: EncoderEngine = make_engine(*common, "encoder", encoder, decoder)
        self.decoder_engine: DecoderEngine = make_engine(*common, "decoder", decoder, encoder)

    @property
    def networks(self) -> tuple[Encoder, Decoder]:
        """The networks in training; without their weights if these are divided among the processes."""
        return self.encoder, self.decoder

    @property
    def encoder_ema(self) -> Ema:
        return self.encoder_engine.ema

    @property
    def decoder_ema(self) -> Ema:
        return self.decoder_engine.ema

    @contextmanager
    def whole(self, *, live: bool, here: bool = True) -> Iterator[tuple[Encoder, Decoder]]:
        """Both networks (`live`), or their averages, with all weights, for inference.

        All processes enter it together; those without `here` only help. Weights that are divided among the processes
        are copied together meanwhile.
        """
        with self.encoder_engine.whole(live=live, here=here) as encoder:
            with self.decoder_engine.whole(live=live, here=here) as decoder:
                yield encoder, decoder

    def prepare(self, segment: Segment) -> None:
        """Makes both ready for the steps of a segment: their objectives, and the parameters that these use."""
        objectives = self.settings.objective.build(
            self.encoder,
            self.decoder,
            segment.resolution,
            self.settings.model.dimensions,
            warming_up=segment.warming_up,
            amp=self.settings.engine.amp,
        )
        if world_size() > 1:
            for objective in objectives:
                objective.over = Over(sum_over_processes, world_size())
        in_use = (segment.resolution, segment.blending)
        self.encoder_engine.prepare(objectives[0], self.encoder.parts_in_use(*in_use))
        self.decoder_engine.prepare(objectives[1], self.decoder.parts_in_use(*in_use))

    def missing_moments(self) -> int:
        """Bytes that the optimizers will allocate when all parameters in use have been trained."""
        return self.encoder_engine.missing_moments() + self.decoder_engine.missing_moments()

    def forget_gradients(self) -> None:
        self.encoder_engine.forget_gradients()
        self.decoder_engine.forget_gradients()

    def average(self, images: int) -> None:
        """Moves the averages by a step of `images` images."""
        self.encoder_engine.average(images)
        self.decoder_engine.average(images)

    def reset_optimizers(self) -> None:
        self.encoder_engine.reset()
        self.decoder_engine.reset()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training has made, by canonical name (checkpoint/state.py), sharing memory.

        All processes call it together. Where no process holds it all, each gets the values of its share
        (checkpoint/writing.py) and meta tensors for the rest.
        """
        specs = self.encoder_engine.specs() | self.decoder_engine.specs()
        mine = frozenset(share(specs, world_size())[rank()])
        return self.encoder_engine.tensors(mine) | self.decoder_engine.tensors(mine)

    def restore_networks(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over networks and averages. ValueError naming a tensor that is missing or does not fit."""
        self.encoder_engine.restore_networks(tensors)
        self.decoder_engine.restore_networks(tensors)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` once gave. ValueError naming a tensor that is missing or does not fit."""
        self.encoder_engine.restore(tensors)
        self.decoder_engine.restore(tensors)
