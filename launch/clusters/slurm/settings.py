"""Resources of a SLURM job, and a cluster's conventions for requesting them."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from launch.clusters.base import Resources
from launch.clusters.counts import Count, Gpus, Text, gpu_count
from launch.clusters.slurm.gpu_requests import gres_count
from launch.clusters.slurm.layers import one_layer
from launch.clusters.slurm.options import Options

_LONGEST_DELAY = 120


def parse_time(value: object) -> object:
    """Minutes, rounded up, from SLURM's notations of a time limit: `90`, `mm:ss`, `hh:mm:ss`, `d-hh`, `d-hh:mm`."""
    if isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", value.strip(), re.ASCII)
    days, *rest = match.groups() if match else (None,)
    numbers = [int(part) for part in rest if part is not None]
    # With days the first number means hours; without them it means hours only if there are three.
    units = (3600, 60, 1) if days is not None or len(numbers) == 3 else (60, 1)
    seconds = 86400 * int(days or 0) + sum(n * unit for n, unit in zip(numbers, units, strict=False))
    if not seconds:
        raise ValueError(f"{value!r} is not a time limit: write minutes (90), hh:mm:ss or days-hh:mm:ss (1-12:00:00)")
    return math.ceil(seconds / 60)


def _parse_memory(value: object) -> object:
    if value is None:
        return None
    text = str(value).strip()
    if not re.fullmatch(r"\d+(?:[KMGT]B?)?", text, re.IGNORECASE | re.ASCII):
        raise ValueError(
            f"{text!r} is not an amount of memory: write 64G (K, M, G or T; megabytes without a unit), or 0 for all"
        )
    return text


def _check_gpus_per_task(value: str | None) -> str | None:
    if value is not None and gpu_count(value) != 1:
        raise ValueError(f"each process uses one GPU: write 1 or TYPE:1, not {value}, and set tasks_per_node as needed")
    return value


def _check_name(value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise ValueError("a job's name cannot be empty")
    return value


class SlurmSettings(Resources):
    """Resources of a job, and its cluster's conventions for requesting them. Options of `sivae submit` come first."""

    cluster_name: str | None = None
    """SLURM's ClusterName (`scontrol show config`), by which `--cluster auto` finds these settings."""
    job_name: Annotated[str | None, AfterValidator(_check_name)] = None
    """Name of the jobs; `{name}` stands for the default, the name of the configuration or sweep."""
    nodes: Count = 1
    gpus_per_node: Gpus = 1
    """GPUs per node (`4`), with the type if the cluster requires it (`a100:4`); one process per GPU. 0 trains on CPUs;
    tasks_per_node is then the number of processes."""
    gpus_per_task: Annotated[Text | None, AfterValidator(_check_gpus_per_task)] = None
    """`1` or `a100:1` makes SLURM bind a GPU to each process; tasks_per_node is their number if gpus_per_node is not
    set."""
    gres: Text | None = None
    """Generic resources per node. GPUs (`gpu:a100:4`) replace gpus_per_node, for clusters that support only this
    option; others (`nvme:100G`) are requested in addition."""
    tasks_per_node: Count | None = None
    """Processes per node; None for one per GPU."""
    cpus_per_task: Count = 4
    mem: Annotated[Text | None, BeforeValidator(_parse_memory)] = None
    """Memory per node in SLURM's notation (`64G`; `0` for all). None leaves it to the cluster."""
    time: Annotated[int, BeforeValidator(parse_time)] = 24 * 60
    """Time limit in minutes or in SLURM's notation (`1-12:00:00`). A longer run is requeued and resumes."""
    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    exclude: Text | None = None
    signal_delay: Annotated[int, Field(ge=1)] | None = None
    """Seconds before the time limit at which the run is asked to save and stop; should be twice the time to save a
    checkpoint. None for 120, or a quarter of a short limit."""
    setup: tuple[str, ...] = ()
    """Shell commands to run before the processes (`module load cuda`). Those of the command line follow the file's."""
    container_image: Text | None = None
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """How to run an image: with srun's option --container-image, or with `apptainer exec`."""
    srun: Options = {}
    """Further options of srun, by long names or as on a command line."""
    sbatch: Options = {}
    """Further options of sbatch, by long names, as on a command line or as in a script. Each replaces the line that
    sivae would write; `true` means an option without a value, `false` omits the line."""
    max_array_size: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of tasks in a job array; None asks SLURM."""

    @model_validator(mode="before")
    @classmethod
    def _fold(cls, values: Any) -> Any:
        return one_layer(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _fit_together(self) -> "SlurmSettings":
        for name in ("ntasks", "gpus"):
            self._per_node(name)
        if self.delay >= 60 * self.time:
            raise ValueError(
                f"signal_delay: {self.delay} s before a time limit of {60 * self.time} s leaves no time to train"
            )
        return self

    def _per_node(self, name: str) -> int | None:
        """Each node's share of the total in an option of sbatch. ValueError when it cannot be divided equally."""
        text = self.sbatch.get(name)
        if text is None or text is False:
            return None
        total = gpu_count("" if text is True else text)
        if total % self.nodes or not total:
            raise ValueError(f"sbatch option {name}: {text} cannot be divided among {self.nodes} nodes")
        return total // self.nodes

    @property
    def gpus(self) -> int:
        """GPUs per node, however they are requested."""
        if found := gres_count(self.gres) or self._per_node("gpus"):
            return found
        if self.gpus_per_task is not None and "gpus_per_node" not in self.model_fields_set:
            return self.tasks_per_node or self._per_node("ntasks") or 1
        return gpu_count(self.gpus_per_node)

    @property
    def processes_per_node(self) -> int:
        return self._per_node("ntasks") or self.tasks_per_node or max(1, self.gpus)

    @property
    def processes(self) -> int:
        return self.nodes * self.processes_per_node

    @property
    def delay(self) -> int:
        """Seconds between the request to stop and the time limit."""
        return self.signal_delay or min(_LONGEST_DELAY, 15 * self.time)

    @property
    def margin(self) -> int:
        """Seconds before the time limit at which a job is requeued even if it has not saved."""
        return max(1, min(20, self.delay // 4))

    def gpu_options(self) -> Options:
        """The options of sbatch that request GPUs and other generic resources."""
        asked: dict[str, Any] = {"gres": self.gres, "gpus-per-task": self.gpus_per_task}
        instead = self.gpus_per_task is not None and "gpus_per_node" not in self.model_fields_set
        if not (instead or gres_count(self.gres) or "gpus" in self.sbatch) and gpu_count(self.gpus_per_node):
            asked["gpus-per-node"] = self.gpus_per_node
        return {name: str(value) for name, value in asked.items() if value is not None}
