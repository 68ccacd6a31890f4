"""The part of `sivae evaluate` that runs in each of its processes."""

import sys

import torch
from torch.utils.tensorboard import SummaryWriter

from sivae_dist.config.run_settings import RunSettings
from sivae_dist.evaluation.evaluator import Evaluator, evaluated_in
from sivae_dist.evaluation.progress import Progress, StoppedError
from sivae_dist.evaluation.rows import Row, describe, tag
from sivae_dist.process import startup
from sivae_dist.process.devices import describe as describe_device
from sivae_dist.process.devices import start_lines
from sivae_dist.process.processes import everyone, rank
from sivae_dist.process.stopping import Stop
from sivae_dist.published import WeightsError
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import append_rows
from sivae_dist.use.loading import load_run


def evaluate(run: RunDirectory, checkpoint: str, settings: RunSettings, device: torch.device, stop: Stop) -> bool:
    """Measures a checkpoint and records the values; False when asked to stop. All processes call it together.

    WeightsError when something that was asked for cannot be measured, ValueError when there is no such checkpoint.
    """
    stop.join()
    startup.doing(f"loading {run.path}")
    model = load_run(run.path, checkpoint=checkpoint, live=settings.evaluation.live, device=device)
    startup.doing(f"opening {settings.data.where}")
    with settings.data.open(settings.seed, device) as data:
        settings.fitted(data)  # whose labels the networks are told
        evaluator = Evaluator(settings.evaluation, data, device, _say, Progress(stop, _say).tick)
        if problem := evaluator.prepare():
            raise WeightsError(problem)
        described = everyone(lambda: describe_device(device))
        if rank() == 0:  # beside the values, which are what the command prints
            print(*start_lines(described, evaluated_in(model), torch.get_num_threads()), sep="\n", file=sys.stderr)
        startup.doing("measuring")
        try:
            rows = evaluator.evaluate(model)
        except StoppedError:
            return False
    if rank() == 0:
        append_rows(run.evaluation, rows, durable=True)
        _draw(run, rows)
        print(
            "\n".join(describe(row) for row in rows) or "nothing could be measured: there is no test split", flush=True
        )
    return True


def _draw(run: RunDirectory, rows: list[Row]) -> None:
    """Puts the values into TensorBoard, beside those of a training that may be under way."""
    try:
        with SummaryWriter(str(run.tensorboard / "evaluation")) as writer:
            for row in rows:
                writer.add_scalar(tag(row), row["value"], row["images"])
    except OSError as error:  # they are in evaluation.jsonl
        _say(f"warning: TensorBoard's events in {run.tensorboard} cannot be written: {error}")


def _say(line: str) -> None:
    startup.done()
    if rank() == 0:
        print(line, flush=True)
