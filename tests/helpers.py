"""What several test files share: tiny random data sets, tiny runs, and functions on several processes."""

import faulthandler
import math
import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.distributed import TCPStore

from data_pipelines.images.prepare import PrepareSettings, prepare
from sivae_dist.config.opening import prepare_run, settings_of
from sivae_dist.config.run_settings import RunSettings, override, validate
from sivae_dist.process.stopping import Stop
from sivae_dist.run.directory import RunDirectory
from sivae_dist.train.trainer import Trainer

CPU = torch.device("cpu")


# Data sets and runs.


def random_set(dest: Path, *, samples: int = 24, resolution: int = 8, **settings: Any) -> Path:
    """A data set of random pictures: every one another, every pixel another."""
    source = dest.with_name(f"{dest.name}-source")
    source.mkdir(parents=True)
    for i in range(samples):
        pixels = np.random.default_rng(i).integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(source / f"{i:04d}.png")
    prepare(source, dest, PrepareSettings(resolution=resolution, **{"shard_size": 7} | settings))
    return dest


def labelled_set(dest: Path, *, samples: int = 24, resolution: int = 8, **settings: Any) -> Path:
    """A data set of random pictures in the classes ant, bee and cat, one after the other."""
    source = dest.with_name(f"{dest.name}-source")
    for i in range(samples):
        pixels = np.random.default_rng(i).integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)
        path = source / ("ant", "bee", "cat")[i % 3] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    known = {"shard_size": 7, "labels": "folders"}
    prepare(source, dest, PrepareSettings(resolution=resolution, **known | settings))
    return dest


def tiny_settings(data: Path, *assignments: str) -> RunSettings:
    """A run of seconds, from 4 to 8 px: 2 steps at 4 px, 2 of transition and 2 more at 8 px; no saves but the last."""
    values: dict[str, Any] = {
        "device": "cpu",
        "data": {"path": str(data), "threads": 1},
        "model": {
            "resolution": 8,
            "latent": 8,
            "base_width": 4,
            "max_width": 8,
            "encoder_mapping": 2,
            "decoder_mapping": 2,
        },
        "objective": {"name": "soft_intro", "beta_neg": 16.0, "gamma_r": 0.1, "style_mixing": 0.5},
        "schedule": {"images": {4: 16, 8: 32}, "batch": 8, "lr_encoder": 0.01, "lr_decoder": 0.01},
        "ema": {"half_life": 20},
        "checkpoint": {"every": 0},
        "monitoring": {"scalars_every": 8, "images_every": 0},
    }
    override(values, list(assignments))
    return validate(values, "tiny")


def begin(path: Path, settings: RunSettings | None = None, stop: Stop | None = None) -> Trainer:
    """A Trainer of the run at `path`; one process alone, or the first to come, says with which settings."""
    run = RunDirectory(path)
    if settings is not None:
        prepare_run(run, settings)
    return Trainer(settings_of(run), run, CPU, stop)


def open_run(path: Path, data: Path, *assignments: str) -> Path:
    """The directory of a new run of tiny_settings."""
    prepare_run(RunDirectory(path), tiny_settings(data, *assignments))
    return path


class Stopped(Exception):
    """A run was left in the middle, on purpose."""


def train(trainer: Trainer, steps: int | None = None, after: Callable[[], None] | None = None) -> Trainer:
    """Trains to the end, or for `steps` steps, as if the process had been ended then; `after` is called each step."""
    taken, tell = 0, trainer.monitor.step

    def step(current: Any) -> None:
        nonlocal taken
        taken += 1
        tell(current)
        if after is not None:
            after()
        if taken == steps:
            raise Stopped

    trainer.monitor.step = step  # type: ignore[method-assign]
    try:
        trainer.train()
    except Stopped:
        pass
    finally:
        trainer.close()
    return trainer


def snapshot(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy that later steps do not reach, with the same layout in memory."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    """The same names, and under each the same type, layout and bits."""
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype, name
        assert got[name].stride() == tensor.stride(), name
        assert got[name].isfinite().all(), name
        assert torch.equal(got[name], tensor), name


def largest_difference(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> float:
    """Over all tensors, of the norm of the difference relative to the norm."""
    assert got.keys() == want.keys()
    return max(
        (torch.linalg.vector_norm(got[name] - want[name]) / (torch.linalg.vector_norm(want[name]) + 1e-3)).item()
        for name in want
    )


def kind_of(name: str) -> str:
    """encoder, encoder_ema, encoder_optim.exp_avg, ...: of a tensor by its name in a checkpoint."""
    return ".".join(name.split(".")[: 2 if "_optim." in name else 1])


def differences(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> dict[str, float]:
    """By name, the norm of the difference over that of the tensor, or over a ten-thousandth of that of all tensors of
    its kind, where it is smaller: moments of a bias before a normalization are zero but for rounding."""
    assert list(got) == list(want)
    norms = {name: torch.linalg.vector_norm(tensor.double()).item() for name, tensor in want.items()}
    kinds: dict[str, float] = {}
    for name, norm in norms.items():
        kinds[kind_of(name)] = math.hypot(kinds.get(kind_of(name), 0), norm)
    found = {}
    for name, tensor in want.items():
        difference = torch.linalg.vector_norm(got[name].double() - tensor.double()).item()
        assert math.isfinite(difference), name
        found[name] = difference / max(norms[name], 1e-4 * kinds[kind_of(name)], 1e-12)
    return found


def disturb(trainer: Trainer) -> Trainer:
    """Moves all parameters off where they start, so that noise has a strength and every gradient a size.

    At first some gradients are zero but for rounding errors (a bias before a normalization, when no activation bends),
    which Adam makes as large as any other.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for network in (trainer.players.encoder, trainer.players.decoder):
            for p in network.parameters():
                p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return trainer


def trained(path: Path, steps: int | None = None, disturbed: bool = False) -> dict[str, torch.Tensor]:
    """A copy of all tensors of the run at `path` after so many steps, or at its end; `disturbed` when it began."""
    trainer = begin(path)
    return snapshot(train(disturb(trainer) if disturbed else trainer, steps).players.tensors())


def gathered(trainer: Trainer) -> dict[str, torch.Tensor]:
    """A copy of all that a checkpoint would hold, on every process, whoever holds it."""
    tensors = trainer.players.tensors()
    mine = snapshot({name: tensor for name, tensor in tensors.items() if not tensor.is_meta})
    parts: list[Any] = [mine]
    if dist.is_initialized():
        parts *= dist.get_world_size()
        dist.all_gather_object(parts, mine)
    values = {name: tensor for part in parts for name, tensor in part.items()}
    assert values.keys() == tensors.keys()
    return {name: values[name] for name in tensors}


# Processes.


def _context(fresh: bool = False) -> Any:
    # A server forks the processes, with torch imported once: they start in no time, and from no running threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if fresh:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    return context


def _child(
    rank: int, count: int, port: int, limit: float, pipe: Connection, function: Callable[..., Any], arguments: Any
) -> None:
    faulthandler.dump_traceback_later(limit, exit=True)  # where it hangs; and no process outlives its test
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    try:
        if count > 1:
            dist.init_process_group("gloo")
        message = (True, pickle.dumps(function(*arguments)))
    except BaseException:
        message = (False, traceback.format_exc().encode())
    pipe.send(message)
    pipe.close()
    os._exit(0)  # no orderly end of the group, in which one process would wait for another that failed


def on_processes(
    count: int, function: Callable[..., Any], *arguments: Any, limit: float = 300, fresh: bool = False
) -> list[Any]:
    """What `function(*arguments)` returns on each process of a gloo group, by rank.

    `function` is one of a module's own. An error on any process is raised here with its traceback, as is a run of
    more than `limit` seconds; no process is left behind in either case. `fresh` processes have imported nothing.
    """
    context = _context(fresh)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # its port is held
    processes, pipes = [], []
    for rank in range(count):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(rank, count, store.port, limit + 5, theirs, function, arguments))
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    results: dict[int, Any] = {}
    failures: list[str] = []
    end = time.monotonic() + limit
    try:
        waiting = dict(zip(pipes, range(count), strict=True))
        while waiting and not failures:
            ready = wait_for_any(list(waiting), timeout=max(0.0, end - time.monotonic()))
            if not ready:
                failures.append(f"processes {sorted(waiting.values())} were not done after {limit} s")
            for pipe in ready:
                rank = waiting.pop(pipe)  # type: ignore[arg-type]
                try:
                    fine, content = pipe.recv()  # type: ignore[union-attr]
                except EOFError:
                    fine, content = False, b"it ended without a word"
                if fine:
                    results[rank] = pickle.loads(content)
                else:
                    failures.append(f"process {rank} of {count} failed:\n{content.decode()}")
    finally:
        for process, pipe in zip(processes, pipes, strict=True):
            if failures:
                process.kill()
            process.join()
            pipe.close()
    if failures:
        raise AssertionError("\n".join(failures))
    return [results[rank] for rank in range(count)]


def start_process(function: Callable[..., Any], *arguments: Any, daemon: bool = True) -> Any:
    """A process of its own that runs a module's function; whoever starts it ends it. Daemons start no processes."""
    process = _context().Process(target=function, args=arguments, daemon=daemon)
    process.start()
    return process
