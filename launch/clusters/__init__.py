"""Clusters: where jobs run. This is the one list of them; base.py says what one is, and how to add another."""

from typing import Any

from data_pipelines.choices import Registry
from launch.clusters.base import Cluster, Job, Prepared, Resources, State
from launch.clusters.files import kind_of
from launch.clusters.local.cluster import Local
from launch.clusters.slurm.cluster import Slurm

CLUSTERS: Registry[type[Cluster[Any]]] = Registry("cluster", {"slurm": Slurm, "local": Local})

__all__ = ["CLUSTERS", "Cluster", "Job", "Prepared", "Resources", "State", "cluster_for", "cluster_of"]


def cluster_of(kind: str) -> Cluster[Any]:
    """By its name in the list. ValueError when there is none."""
    return CLUSTERS[kind](kind)


def cluster_for(name: str) -> Cluster[Any]:
    """The one that `--cluster NAME` means: a kind, or the kind of a file; the first of the list where none is said."""
    return cluster_of(name if name in CLUSTERS else kind_of(name) or next(iter(CLUSTERS)))
