"""Faults of the machine, as opposed to faults in the data: they end the work, and damage nothing."""

import errno
import os
import resource

_RUN_AGAIN = "then run the same command again"


class CircumstanceError(OSError):
    """The machine cannot continue; one line says why and what to do. It is never a reason to replace or leave out data.

    `errno` is the system's number, None for a lack of memory that a library noticed.
    """

    def __init__(self, line: str, number: int | None = None) -> None:
        super().__init__(line)
        self.errno = number


def is_circumstance(error: BaseException) -> bool:
    """Whether an error is about the machine. An OSError without a number, as decoders raise it, is about their input;
    so is one about a file's name or kind."""
    if isinstance(error, CircumstanceError):
        return True
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _ABOUT_A_NAME
    # Some libraries only say so in the message; and a library may no longer load.
    return isinstance(error, MemoryError | ImportError) or "insufficient memory" in str(error).lower()


def explained(name: str, error: BaseException, doing: str = "read") -> CircumstanceError:
    """The error to raise for one that `is_circumstance`, met at the file `name`; `doing`: "read" or "written"."""
    if isinstance(error, CircumstanceError):
        return error
    number = error.errno if isinstance(error, OSError) else None
    if number is None and isinstance(error, ImportError):
        return CircumstanceError(f"{name} cannot be {doing} ({error}): install sivae again")
    reason = os.strerror(errno.ENOMEM if number is None else number)
    return CircumstanceError(f"{name} cannot be {doing} ({reason}): {advice(number)}", number)


def advice(number: int | None) -> str:
    """Advice for a system error number; None stands for a lack of memory."""
    if number == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"the limit is {limit} open files per process; raise it (ulimit -n 4096), {_RUN_AGAIN}"
    what = _ADVICE.get(errno.ENOMEM if number is None else number, "the machine or its file system has a fault; fix it")
    return f"{what}, {_RUN_AGAIN}"


_ABOUT_A_NAME = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL))

_ADVICE = {
    errno.ENFILE: "too many files are open on this machine; close some or raise fs.file-max",
    errno.ENOMEM: "free some memory or use fewer workers, threads or prefetched batches",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "grant the permission (chmod, chown)"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space"),
    errno.EROFS: "mount the file system for writing",
    errno.EIO: "a disk or its connection is failing; check dmesg and whether the file system is still mounted",
    **dict.fromkeys(
        (errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.EREMOTEIO),
        "check whether the file system is still mounted and its server answers",
    ),
}
