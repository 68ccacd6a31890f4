"""Parses options of sbatch and srun in any spelling; refuses duplicates and options that would break runs.

Spellings: `mem`, `--mem=64G`, `--mem 64G`, `-J name`, `mail_type`, a line `#SBATCH --exclusive` of a script.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

Options = dict[str, str | bool]
"""Values by long name; True for an option without a value, False to omit a line that sivae would write."""

Given = Mapping[str, object] | Iterable[str] | str

_LETTERS = {
    "A": "account", "a": "array", "B": "extra-node-info", "b": "begin", "C": "constraint", "c": "cpus-per-task",
    "D": "chdir", "d": "dependency", "e": "error", "F": "nodefile", "G": "gpus", "H": "hold", "h": "help",
    "I": "immediate", "i": "input", "J": "job-name", "K": "kill-on-bad-exit", "k": "no-kill", "L": "licenses",
    "l": "label", "M": "clusters", "m": "distribution", "N": "nodes", "n": "ntasks", "O": "overcommit", "o": "output",
    "p": "partition", "Q": "quiet", "q": "qos", "S": "core-spec", "s": "oversubscribe", "t": "time", "u": "unbuffered",
    "V": "version", "v": "verbose", "W": "wait", "w": "nodelist", "x": "exclude", "Z": "no-allocate",
}  # fmt: skip
"""SLURM's short options; the few that differ between sbatch and srun are rarely used."""

_SYNONYMS = {"tasks-per-node": "ntasks-per-node", "share": "oversubscribe", "workdir": "chdir", "cluster": "clusters"}

_SBATCH_NEEDS = {
    "array": "`sivae sweep` creates the arrays",
    "clusters": "`sivae status` and `sivae cancel` query the cluster that they run on",
    "error": "`sivae logs` reads the output of the processes from RUN/logs/jobs",
    "output": "`sivae logs` reads the output of the processes from RUN/logs/jobs",
    "input": "a job does not read its standard input",
    "wrap": "sivae writes the batch script",
    "no-kill": "when a node is lost, all processes must end so that the job can be requeued",
    "no-requeue": "a job that is preempted or reaches its time limit is requeued (stop it with `sivae cancel`)",
    "gpus-per-socket": "the number of processes follows from the GPUs per node: write gpus_per_node",
    "ntasks-per-gpu": "there is one process per GPU: write gpus_per_node, or tasks_per_node",
    "ntasks-per-core": "the number of processes is nodes times tasks_per_node",
    "ntasks-per-socket": "the number of processes is nodes times tasks_per_node",
    "nodefile": "choose nodes with nodelist, exclude and constraint",
    "parsable": "sivae reads the job's number from sbatch's normal output",
    "quiet": "sivae reads the job's number from sbatch's normal output",
    "test-only": "`sivae submit --dry-run` submits nothing",
    "wait": "`sivae logs -f` waits for the end of a job",
    "help": "see `man sbatch`",
    "usage": "see `man sbatch`",
    "version": "see `sbatch --version`",
}

WITHOUT_KEY = frozenset(
    {
        "begin", "comment", "contiguous", "cores-per-socket", "cpu-freq", "cpus-per-gpu", "deadline", "dependency",
        "distribution", "exclusive", "export", "get-user-env", "gpus", "gpu-bind", "gpu-freq", "hint", "hold",
        "licenses", "mail-type", "mail-user", "mem-per-cpu", "mem-per-gpu", "mincpus", "network", "nice", "nodelist",
        "ntasks", "oversubscribe", "prefer", "priority", "reservation", "sockets-per-node", "spread-job", "switches",
        "threads-per-core", "time-min", "tmp", "wckey",
    }
)  # fmt: skip
"""Common options of sbatch without a key of their own in a cluster's settings."""

_SRUN_NEEDS = {
    "error": _SBATCH_NEEDS["error"],
    "output": _SBATCH_NEEDS["output"],
    "input": _SBATCH_NEEDS["input"],
    "no-kill": _SBATCH_NEEDS["no-kill"],
    "nodes": "the number of processes is set by nodes and tasks_per_node",
    "ntasks": "the number of processes is set by nodes and tasks_per_node",
    "ntasks-per-node": "the number of processes is set by nodes and tasks_per_node",
    "pty": "a job has no terminal",
    "multi-prog": "all processes run the same program",
    "jobid": "the processes belong to the job that is submitted",
    "no-allocate": "the processes belong to the job that is submitted",
    "wait": "the processes of a job end together",
    "relative": "the processes take all nodes of the job",
    "help": "see `man srun`",
    "usage": "see `man srun`",
    "version": "see `srun --version`",
}


def sbatch_options(given: Given) -> Options:
    """Options of sbatch by their long names. ValueError with one line per problem: an option given twice with different
    values, or one that conflicts with sivae's needs."""
    options = _collect(given)
    _refuse(options, _SBATCH_NEEDS, "sbatch")
    requeue, mode = options.pop("requeue", True), options.get("open-mode", "append")
    if requeue is not True:
        raise ValueError(f"sbatch option requeue cannot be switched off: {_SBATCH_NEEDS['no-requeue']}")
    if mode not in ("append", "a"):
        raise ValueError(
            f"sbatch option open-mode cannot be {_shown(mode)}: each start would erase the log of the one before it"
        )
    options.pop("open-mode", None)
    return options


def srun_options(given: Given) -> Options:
    """Options of srun by their long names. ValueError as in sbatch_options."""
    options = _collect(given)
    _refuse(options, _SRUN_NEEDS, "srun")
    if options.get("kill-on-bad-exit", "1") not in (True, "1"):
        raise ValueError(
            "srun option kill-on-bad-exit has to stay 1: the processes must end together, or the job would hang"
        )
    options.pop("kill-on-bad-exit", None)
    options.pop("unbuffered", None)  # always set
    exported = str(options.get("export", "ALL"))
    if exported.split(",")[0] != "ALL":
        raise ValueError(
            f"srun option export has to begin with ALL, not {exported}: the processes find their code and settings in "
            "the environment"
        )
    return options


def arguments(options: Options) -> list[str]:
    """The options as words of a command line."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]


def long_name(name: str) -> str:
    """The long name of an option in any spelling: `-J`, `job_name`, `--job-name`. ValueError if it is not an option."""
    bare = name.strip().lstrip("-")
    if len(bare) == 1:
        if bare not in _LETTERS:
            raise ValueError(f"{name.strip()!r} is not a known short option of SLURM: write the option's long name")
        return _LETTERS[bare]
    if not re.fullmatch(r"[A-Za-z][\w-]*", bare):
        raise ValueError(f"{name!r} is not the name of an option: write NAME or NAME=VALUE (mail-type=END)")
    dashed = bare.replace("_", "-").lower()
    return _SYNONYMS.get(dashed, dashed)


def _collect(given: Given) -> Options:
    if isinstance(given, Mapping):
        options: Options = {}
        for key, value in given.items():
            name, found = long_name(str(key)), _value(value)
            if options.get(name, found) != found:
                raise ValueError(f"{name} is given twice: {_shown(options[name])} and {_shown(found)}")
            options[name] = found
        return options
    lines = [given] if isinstance(given, str) else list(given)
    return {name: value for line in lines for name, value in _parse(str(line))}  # the last one wins, as in SLURM


def _parse(line: str) -> Iterator[tuple[str, str | bool]]:
    """The options in a line as in a batch script or after sbatch; NAME=VALUE needs no dashes."""
    line = re.sub(r"^\s*#SBATCH\s+", "", line).strip()
    if not line.startswith("-"):
        name, equals, value = line.partition("=")
        yield long_name(name), _value(value) if equals else True
        return
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise ValueError(f"{line!r} cannot be parsed as options: {error}") from None
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, equals, value = word.partition("=")
        else:
            name, equals, value = word[:2], word[2:], word[2:].removeprefix("=")
        rest = []
        while words and not words[0].startswith("-"):
            rest.append(words.pop(0))
        text = " ".join([value, *rest] if equals else rest)
        yield long_name(name), text if equals or rest else True


def _value(value: object) -> str | bool:
    """`true` or nothing means an option without a value, `false` omits it, and a list is joined with commas."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    text = "" if value is None else str(value).strip()
    return {"": True, "true": True, "false": False}.get(text.lower(), text)


def _refuse(options: Options, needs: Mapping[str, str], command: str) -> None:
    lines = [
        f"{command} option {name} cannot be set: {needs[name]}"
        for name, value in options.items()
        if name in needs and value is not False
    ]
    if lines:
        raise ValueError("\n".join(lines))


def _shown(value: str | bool) -> str:
    return {"True": "no value", "False": "false"}.get(str(value), str(value))
