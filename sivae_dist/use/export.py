"""Exported models: a directory with weights, settings and a model card, written and read back here.

    OUT/model.safetensors   encoder.NAME and decoder.NAME, as a checkpoint calls them
    OUT/config.json         `ExportConfig`: the model's settings and what it was trained on
    OUT/README.md           a model card for people and for the Hugging Face Hub

An export may come from anyone: nothing in it is executed, and anything that does not fit is refused.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data_pipelines.problems import first_error
from data_pipelines.settings import expand
from sivae_dist.checkpoint.state import fill_network, network_tensors
from sivae_dist.config.opening import settings_of
from sivae_dist.models import AnyModel, Stage
from sivae_dist.objectives import OBJECTIVES
from sivae_dist.run.atomic import new_folder
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.settings import Settings
from sivae_dist.use.loading import choose, from_checkpoint, load_run
from sivae_dist.use.pretrained import Pretrained
from sivae_dist.use.tensor_files import write_tensors

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

UNKNOWN_LICENSE = "unknown"

_MAX_CONFIG_BYTES = 1 << 20
_TYPES = {"float32": ("F32", torch.float32), "float64": ("F64", torch.float64)}


class ExportConfig(Settings):
    """config.json of an export."""

    format: Literal["sivae-model"] = "sivae-model"
    version: Literal[1] = 1
    model: AnyModel
    objective: str
    """Name of the objective that the networks were trained with."""
    dtype: Literal["float32", "float64"]
    resolution: int
    """Of the stage of growth that the networks had reached."""
    blend: float | None = Field(None, ge=0, le=1)
    """Weight of the newest blocks, when they were being blended in."""
    images: int = Field(ge=0)
    """Images seen in training."""
    weights: Literal["ema", "live"]
    """Moving averages, or the weights as they stood in training."""
    data: str | None = None
    """Digest of the data set that the networks were trained on."""
    metrics: dict[str, float] = {}
    """The last values that training had recorded."""

    @model_validator(mode="after")
    def _possible(self) -> "ExportConfig":
        if self.resolution not in self.model.resolutions:
            raise ValueError(f"resolution {self.resolution} is not one of the model's {self.model.resolutions}")
        if self.blend is not None and self.resolution == 4:
            raise ValueError("blend is given at 4 px, where nothing is blended in")
        return self


def export(
    path: Path,
    out: Path,
    *,
    checkpoint: str | int = "latest",
    live: bool = False,
    license: str = UNKNOWN_LICENSE,
) -> ExportConfig:
    """Writes the networks of a run to the new directory `out`, whole or not at all; returns its configuration.

    The same checkpoint makes the same bytes, whatever `out` is called.

    `license` is an identifier such as `apache-2.0` or `cc-by-4.0`. ValueError when `out` exists, the run has no such
    checkpoint (pretrained.choose), or the licence is no identifier.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", license):
        raise ValueError(f"{license!r} is not a licence identifier; write one like apache-2.0, cc-by-4.0 or other")
    if out.exists():
        raise ValueError(f"{out} exists already; remove it or name another directory")
    run = RunDirectory(path)
    settings = settings_of(run)
    chosen = choose(run, settings, checkpoint)
    model = from_checkpoint(settings, chosen, live=live)
    config = ExportConfig(
        model=model.settings,
        objective=settings.objective.name,
        dtype="float64" if model.dtype == torch.float64 else "float32",
        resolution=model.stage.resolution,
        blend=None if model.stage.blend is None else float(model.stage.blend),
        images=model.images,
        weights="live" if live else "ema",
        data=model.data,
        metrics={name: value for name, value in chosen.meta.metrics.items() if math.isfinite(value)},
    )
    card = model_card(run.path.resolve().name, config, _evaluations(run, config), license.lower())
    with new_folder(out) as partial:
        _write(partial, model, config, card)
    return config


def _write(folder: Path, model: Pretrained, config: ExportConfig, card: str) -> None:
    tensors = network_tensors("encoder", model.encoder) | network_tensors("decoder", model.decoder)
    about = {"format": "pt", "library": "sivae"} | {
        name: str(getattr(config, name)) for name in ("resolution", "images", "weights", "data")
    }
    write_tensors(folder / WEIGHTS, tensors, about)
    (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")
    (folder / CARD).write_text(card)


def _evaluations(run: RunDirectory, config: ExportConfig) -> list[dict[str, Any]]:
    """The rows of evaluation.jsonl about these very weights; of a metric that was taken twice, the later one."""
    rows = read_rows(run.evaluation)
    ours = [row for row in rows if row.get("images") == config.images and row.get("weights") == config.weights]
    return list({str(row.get("metric")): row for row in ours}.values())


_CARD = """\
---
{front}---

# {name}

{kind}: an encoder and a decoder
of {what}, trained with `sivae`.

| | |
|---|---|
| {noun} seen in training | {images:,} |
| {extent} |
| latent dimensions | {latent} |
{classes}| parameters | encoder {encoder:,}, decoder {decoder:,} |
| weights | {weights} |
| training data | data set with the digest `{data}` |
| licence | {license} |

## Use

```python
from sivae_dist import load_pretrained

model = load_pretrained(".")  # this directory; device="cuda" for a GPU
{noun} = model.sample(16, seed=0{of_class})  # {shape}
mu, logvar = model.encode({noun}{label})
```

There are also {methods}. Pictures come
from the command line: `sivae sample . --out samples.png`.

`model.safetensors` holds the tensors, `config.json` the settings; there is no code in here.

## Values

{values}
## Limits

The model shows what its training data shows, with their biases; that data is not part of this directory. {unlike}
"""


def model_card(name: str, config: ExportConfig, evaluations: list[dict[str, Any]], license: str) -> str:
    """README.md of an export. `evaluations`: rows of evaluation.jsonl."""
    model = config.model
    counts = [sum(p.numel() for p in network.parameters()) for network in model.shapes()]
    objective = OBJECTIVES[config.objective]
    names = model.named_classes()
    front: dict[str, Any] = {"license": license, "library_name": "sivae"}
    if model.of_images and not names:
        front["pipeline_tag"] = "unconditional-image-generation"
    tags = [*(["class-conditional"] if names else []), *(["image-generation"] if model.of_images else [])]
    front["tags"] = [*objective.tags, *tags]
    return _CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        name=name,
        kind=objective.card,
        **(_of_images(config) if model.of_images else _of_points(config)),
        methods="`decode`, `reconstruct`, `interpolate` and `style_mix`, and `sample` takes a `truncation`"
        if model.styled
        else "`decode`, `reconstruct` and `interpolate`",
        images=config.images,
        latent=model.latent,
        classes=f"| classes | {_listed(names)} |\n" if names else "",
        of_class=f", classes={names[0]!r}" if names else "",
        label=f", {names[0]!r}" if names else "",
        encoder=counts[0],
        decoder=counts[1],
        weights="moving averages (EMA)" if config.weights == "ema" else "as they stood in training, not averaged",
        data=config.data,
        license="none was stated: ask the author of this model" if license == UNKNOWN_LICENSE else license,
        values=_values(config, evaluations),
    )


def _of_images(config: ExportConfig) -> dict[str, str]:
    """What the card says of a model of images."""
    size, final = f"{config.resolution}x{config.resolution} px", config.model.final_resolution
    growth = "" if config.resolution == final else f", on the way to {final}x{final}"
    if config.blend is not None:
        growth += f", blended in to {config.blend:.2f}"
    return {
        "noun": "images",
        "what": f"images of {size}",
        "extent": f"resolution | {size}{growth}",
        "shape": f"{[16, *config.model.shape(config.resolution)]} around [-1, 1]",
        "unlike": "Images that do\nnot look like it are not reconstructed well.",
    }


def _of_points(config: ExportConfig) -> dict[str, str]:
    """The same of a model of other samples."""
    shape = config.model.shape(config.resolution)
    return {
        "noun": "points",
        "what": f"points of {config.model.dimensions} values",
        "extent": f"shape of a point | {list(shape)}",
        "shape": f"{[16, *shape]}",
        "unlike": "Points that are\nfar from it are not reconstructed well.",
    }


def _listed(names: Sequence[str]) -> str:
    """The classes of a model, all by name, as a cell of a table."""
    return f"{len(names)}: " + ", ".join(" ".join(name.split()).replace("|", "\\|") for name in names)


def _values(config: ExportConfig, evaluations: list[dict[str, Any]]) -> str:
    text = "Nothing was evaluated at this point of training.\n"
    if evaluations:
        text = "Evaluated at this point of training:\n\n| metric | value | from |\n|---|---|---|\n"
        for row in evaluations:
            origin = [f"{key} {value}" for key, value in row.items() if key not in ("images", "metric", "value")]
            text += f"| {row.get('metric')} | {row.get('value')} | {'; '.join(origin)} |\n"
    if terms := {
        name: value for name, value in config.metrics.items() if not name.startswith(("schedule/", "evaluation/"))
    }:
        text += "\nThe last values recorded in training, from one batch and without averaging of the weights:\n\n"
        text += "| | |\n|---|---|\n"
        text += "".join(f"| {name} | {value:.6g} |\n" for name, value in terms.items())
    return text


def load_pretrained(
    path: str | Path,
    *,
    checkpoint: str | int = "latest",
    live: bool = False,
    device: str | torch.device | None = None,
) -> Pretrained:
    """The model in an exported directory, or at a checkpoint of a run (pretrained.load_run); on the CPU by default.

    ValueError in one line when there is neither, or something is wrong with it.
    """
    path = Path(expand(str(path)))
    device = None if device is None else torch.device(device)
    if not (path / CONFIG).exists():
        if not RunDirectory(path).exists:
            raise ValueError(f"{path} is neither a run nor an exported model")
        return load_run(path, checkpoint=checkpoint, live=live, device=device)
    if checkpoint != "latest" or live:
        raise ValueError(f"{path} is an exported model, which has only one checkpoint and one kind of weights")
    return load_export(path, device)


def load_export(path: Path, device: torch.device | None = None) -> Pretrained:
    """The model that `export` wrote. ValueError naming the file, and the tensor, of what is not as it should be."""
    config = _read_config(path / CONFIG)
    tensors = _read_tensors(path / WEIGHTS, config)
    networks = config.model.blank()
    for name, network in zip(("encoder", "decoder"), networks, strict=True):
        network.to(_TYPES[config.dtype][1])
        fill_network(name, network, tensors, device)
        network.eval().requires_grad_(False)
    blend = None if config.blend is None else torch.tensor(config.blend, device=device)
    stage = Stage(config.resolution, blend)
    return Pretrained(config.model, *networks, stage, config.images, config.weights == "live", config.data)


def _read_config(path: Path) -> ExportConfig:
    with path.open("rb") as file:
        content = file.read(_MAX_CONFIG_BYTES + 1)
    if len(content) > _MAX_CONFIG_BYTES:
        raise ValueError(f"{path} is too large for a model's configuration")
    try:
        return ExportConfig.model_validate(json.loads(content))
    except ValidationError as error:
        raise ValueError(f"{path} is not valid: {first_error(error)}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {' '.join(str(error).split())}") from None


def _read_tensors(path: Path, config: ExportConfig) -> dict[str, Tensor]:
    """The tensors in the file, after checking that names, shapes and types are those of the model in `config`."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            expected = _expected(path, config, len(names))
            if missing := sorted(expected.keys() - names):
                raise ValueError(f"{path} has no tensor {missing[0]}")
            if unknown := sorted(names - expected.keys()):
                raise ValueError(f"{path} has a tensor {unknown[0][:100]!r}, which the model does not")
            for name, shape in expected.items():
                entry = file.get_slice(name)
                if entry.get_shape() != shape:
                    raise ValueError(f"{path}: {name} is {entry.get_shape()} there and {shape} in the model")
                if entry.get_dtype() != _TYPES[config.dtype][0]:
                    raise ValueError(f"{path}: {name} is {entry.get_dtype()} there and {config.dtype} in {CONFIG}")
            return {name: file.get_tensor(name) for name in expected}
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def _expected(path: Path, config: ExportConfig, count: int) -> dict[str, list[int]]:
    """Shapes of the model's tensors. The model takes no memory yet, for what its settings claim may be anything."""
    model = config.model
    if model.fewest_tensors > count:
        raise ValueError(f"{path} has {count} tensors, too few for the model in {CONFIG}")
    try:
        networks = model.shapes()
    except (RuntimeError, TypeError, OverflowError):  # of sizes that no tensor can have
        raise ValueError(f"{path.with_name(CONFIG)} describes a model that is too large for any machine") from None
    return {
        f"{name}.{key}": list(tensor.shape)
        for name, network in zip(("encoder", "decoder"), networks, strict=True)
        for key, tensor in network.state_dict().items()
    }
