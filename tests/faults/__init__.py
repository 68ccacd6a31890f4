"""Faults done to training runs on purpose, and what must be true afterwards.

attempts.py    one start of a run's processes, by the command or forked, and what can be done to it
subjects.py    the run that suffers, the undisturbed one it must equal, and the checks after a fault
kills.py       kill -9 at moments that are waited for and proved afterwards
stops.py       signals that ask a run to stop
disks.py       a disk that is full, too small or read-only
damage.py      files of a checkpoint that are no longer what was written
results.py     what happened, as JSON lines, and the table of it
campaign.py    which faults are tried how often; `python -m tests.faults` runs them, tests/integration a few of them
"""
