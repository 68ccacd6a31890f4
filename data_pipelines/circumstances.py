"""What a machine lacks at the moment, as against what is wrong with data: it ends the work, and damages nothing."""

import errno
import os
import resource

_RUN_AGAIN = "then run the same command again"


class CircumstanceError(OSError):
    """The machine cannot go on; one line says why and what to do. It is never a reason to replace or leave out data."""


def is_circumstance(error: BaseException) -> bool:
    """Whether an error is about the machine. An OSError of a decoder, which has no number, is about its input."""
    if isinstance(error, OSError):
        return isinstance(error, CircumstanceError) or (error.errno is not None and error.errno != errno.ENOENT)
    # What libraries say who have no exception for it; and one that cannot be loaded any more, without open files.
    return isinstance(error, MemoryError | ImportError) or "insufficient memory" in str(error).lower()


def explained(name: str, error: BaseException) -> CircumstanceError:
    """The error to raise for one that `is_circumstance`, met at the file `name`."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, CircumstanceError):
        return error
    if number is None or number == errno.ENOMEM:
        return CircumstanceError(f"{name} cannot be read for lack of memory: use fewer workers, {_RUN_AGAIN}")
    return CircumstanceError(f"{name} cannot be read ({os.strerror(number)}): {advice(number)}")


def advice(number: int) -> str:
    """What to do about an error number of the system."""
    if number == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"a process may open {limit} files here; raise that limit (ulimit -n 4096), {_RUN_AGAIN}"
    return f"{_ADVICE.get(number, 'the machine or its file system has a fault; remove it')}, {_RUN_AGAIN}"


_MOUNT = "see whether the file system is still mounted and its server answers"
_ROOM = "free some space"
_ADVICE = {
    errno.ENFILE: "too many files are open on this machine; close some or raise fs.file-max",
    errno.EACCES: "get the right to read it (chmod, chown)",
    errno.EPERM: "get the right to read it (chmod, chown)",
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: "mount the file system for writing",
    errno.EIO: "the disk or the way to it fails; look at dmesg and whether the file system is still mounted",
    **dict.fromkeys(
        (errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.EREMOTEIO),
        _MOUNT,
    ),
}
