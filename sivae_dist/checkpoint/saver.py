"""Saving while training continues: a copy of the tensors, one thread, and a process group that only it uses."""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from sivae_dist.checkpoint.folder import CheckpointFolder
from sivae_dist.checkpoint.meta import Meta
from sivae_dist.checkpoint.settings import CheckpointSettings
from sivae_dist.checkpoint.writing import Snapshot, one_line, share, specs_of, write, write_files
from sivae_dist.process.processes import everyone, host_group, is_of_lost_peer, on_first, rank, world_size
from sivae_dist.run.atomic import reserve


@dataclass(frozen=True)
class Saved:
    """The outcome of a save."""

    images: int
    bytes: int
    seconds: float
    """Seconds from the call to the last byte on disk."""
    blocked: float
    """Of these, seconds in which training stood still."""
    error: OSError | None = None


class CheckpointSaver:
    """Made by all processes of a run together, and called by all in the same order."""

    def __init__(self, folder: CheckpointFolder, settings: CheckpointSettings, device: torch.device) -> None:
        self.folder = folder
        self.settings = settings
        self._pending: Future[Saved] | None = None
        self._ended: list[Saved] = []
        self._failed: list[OSError] = []
        self._on_gpu = cuda = device.type == "cuda"
        # A thread's current GPU is the first of the node, where it must not settle.
        settle = partial(torch.cuda.set_device, device) if cuda else None
        self._thread = ThreadPoolExecutor(1, "checkpoint", initializer=settle)
        # The thread's collectives must not meet those of training.
        self._group = host_group()
        self._alone = False
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=cuda, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=cuda
            )
        )

    def rehearse(self, tensors: Mapping[str, Tensor], size: int) -> None:
        """Writes `tensors`, reserves what they lack to `size` bytes, and removes all of it: a full disk shows before
        training does.

        For meta tensors, which are another process's to save, any values will do.
        OSError naming folder and size, on all processes.
        """
        values = {n: torch.zeros_like(t, device="cpu") if t.is_meta else t for n, t in tensors.items()}
        final = self.folder.path / "rehearsal"
        partial = final.with_name(".tmp-rehearsal")
        try:
            snapshot = self._snapshot(0, values, None, copy=self._on_gpu)
            write_files(partial, final, snapshot, self._group)
            room = -(-size // world_size()) - sum(tensor.nbytes for tensor in snapshot.mine.values())
            everyone(lambda: reserve(partial / f"padding-{rank() + 1:05d}", max(0, room)), self._group)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"no checkpoint of {size / 1e6:,.1f} MB can be written to {self.folder.path}: {error}"
            ) from error
        finally:
            if rank() == 0:
                shutil.rmtree(partial, ignore_errors=True)

    def save(
        self,
        images: int,
        tensors: Mapping[str, Tensor],
        meta: Meta | None,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Copies the tensors, which training may change on return, and writes the copy in the background.

        A save that is still under way is waited for. `before_commit` runs on the first process when all tensors are
        on disk, before the checkpoint gets its name. OSError after `max_failures` failed saves in a row, ValueError
        when the checkpoint exists.
        """
        start = perf_counter()
        self.wait()
        self.check(self.settings.max_failures)
        snapshot = self._snapshot(images, tensors, meta)
        blocked = perf_counter() - start

        def work() -> Saved:
            saved, lost = Saved(images, 0, 0.0, blocked), False
            try:
                saved = replace(saved, bytes=write(self.folder.final(images), snapshot, self._group, before_commit))
                self._tidy()
            except OSError as error:
                saved = replace(saved, error=error)
                lost = isinstance(error.__cause__, Exception) and is_of_lost_peer(error.__cause__)
                if lost:  # frames hold on to the group
                    error.__cause__ = error.__context__ = error.__traceback__ = None
            if lost:
                self._leave()
            return replace(saved, seconds=perf_counter() - start)

        self._pending = self._thread.submit(work)
        if not self.settings.background:
            self.wait()

    def wait(self) -> None:
        """Waits for what is being written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            saved = pending.result()
            self._ended.append(saved if self.settings.background else replace(saved, blocked=saved.seconds))
            # All processes see the same outcome (writing.py), so they count alike.
            self._failed = [*self._failed, saved.error] if saved.error else []

    def check(self, failures: int = 1) -> None:
        """OSError when the last `failures` saves have failed, or another process is gone."""
        if len(self._failed) >= (1 if self._alone else failures):
            raise self._failed[-1]

    def ended(self) -> list[Saved]:
        """The saves that ended since the last call; does not wait."""
        if self._pending is not None and self._pending.done():
            self.wait()
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Waits for what is being written, whatever becomes of it."""
        self._thread.shutdown()
        self._stager.close()

    def _leave(self) -> None:
        """Closes this process's connections, as its end would: when a process is gone, only those who wait for it hear
        of it, and others wait for them, perhaps forever."""
        group, self._group, self._alone = self._group, None, True
        dist.destroy_process_group(group)

    def _tidy(self) -> None:
        try:
            on_first(lambda: self.folder.tidy(self.settings), self._group)
        except (OSError, RuntimeError) as error:
            raise OSError(f"cannot remove old checkpoints of {self.folder.path}: {one_line(error)}") from error

    def _snapshot(
        self, images: int, tensors: Mapping[str, Tensor], meta: Meta | None, *, copy: bool = True
    ) -> Snapshot:
        """`copy`: without, tensors of the host are written as they are, which nothing may change until that is done."""
        specs = specs_of(tensors)
        mine = {name: tensors[name] for name in share(tensors, world_size())[rank()]}
        copies = cast(dict[str, Tensor], self._stager.stage(mine)) if copy else mine
        return Snapshot(images, copies, specs, {} if meta is None else meta.to_manifest())
