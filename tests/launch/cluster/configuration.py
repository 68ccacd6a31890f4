"""The files that describe the cluster to SLURM."""

import os
import random
import socket
import stat
import time
from pathlib import Path

NODES = ("n1", "n2", "n3", "n4")
CPUS = 4
GPUS = 4
"""A node."""
KILL_WAIT = 5
"""Seconds from SIGTERM to SIGKILL of what is requeued, cancelled or out of time. With less SLURM takes as long."""
GRACE = 60
"""Seconds that a preempted job gets to end by itself."""
MAX_ARRAY_SIZE = 21
"""The largest index is one less."""

# AuthInfo: cred_expire is also how long a requeued job waits before it may start again; below 5 it is refused, and the
#   default of 120 s used.
# Accounting: none. slurmdbd needs a database server: 4 s instead of 0.3 to start, 120 MB of packages, and nothing that
#   submits or requeues asks it anything. `squeue --states=all` knows of ended jobs until MinJobAge.
# SlurmdTimeout: a node that is gone is DOWN after 25 s: two pings of 12 s each fail first. Less makes no difference.
# SlurmdParameters: config_overrides lets nodes have more CPUs and memory than this machine.
# MaxArraySize: small, so that sweeps can be too large for it.
_SLURM = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=2
KillWait={kill_wait}
SlurmdTimeout=8
SlurmctldTimeout=30
InactiveLimit=0
MessageTimeout=20
TCPTimeout=10
UnkillableStepTimeout=60
BatchStartTimeout=30
MinJobAge=86400
MaxJobCount=2000
MaxArraySize={max_array_size}
FirstJobId={first_job}
SlurmdParameters=config_overrides
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE DefaultTime=60 PriorityTier=10 PreemptMode=OFF
"""  # noqa: E501
_NODE = (
    "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} Boards=1 SocketsPerBoard=1 "
    "CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=256000 Gres=gpu:{gpus} State=UNKNOWN\n"
)


def configure(folder: Path, port: int) -> None:
    """Writes them. slurmctld gets this port, the nodes those that follow."""
    host = socket.gethostname().split(".")[0]
    slurm = _SLURM.format(
        name=f"sivae{port}",
        host=host,
        port=port,
        folder=folder,
        kill_wait=KILL_WAIT,
        grace=GRACE,
        max_array_size=MAX_ARRAY_SIZE,
        # A later cluster must not begin with the ids of an earlier one: what a job leaves is named after its id.
        first_job=int(time.time()) % 60_000_000,
    )
    gres = ""
    for number, node in enumerate(NODES, 1):
        slurm += _NODE.format(node=node, host=host, port=port + number, cpus=CPUS, gpus=GPUS)
        gres += f"NodeName={node} Name=gpu File={folder}/{node}.gpu[0-{GPUS - 1}]\n"
        for gpu in range(GPUS):  # as /dev/null; SLURM sets no CUDA_VISIBLE_DEVICES for files that are no devices
            os.mknod(folder / f"{node}.gpu{gpu}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (folder / "slurm.conf").write_text(slurm)
    (folder / "gres.conf").write_text(gres)
    # Named, v1 does nothing as long as no plugin asks for cgroups, whatever cgroups there are; without a name, slurmd
    # looks for what the system has, and v2 wants systemd.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "state").mkdir()
    (folder / "munge").mkdir()
    key = folder / "munge" / "key-file"
    key.touch(0o400)
    key.write_bytes(os.urandom(128))


def claim_ports() -> tuple[socket.socket, int]:
    """A claim on free ports for a cluster, which holds until it is closed, and the first of them.

    They lie below those that the system gives to clients. The claim is a name in the abstract namespace: another
    cluster sees it even while a node of ours, and so its port, is down; and it ends with this process.
    """
    while True:
        first = random.SystemRandom().randrange(10_000, 32_000, 16)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0sivae-slurm-{first}")
            for port in range(first, first + 1 + len(NODES)):
                with socket.socket() as listener:
                    listener.bind(("", port))
            return claim, first
        except OSError:
            claim.close()
