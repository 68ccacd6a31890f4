"""Clusters, on which jobs run. This is the only list of them; base.py defines the contract and how to add another."""

from typing import Any

from data_pipelines.choices import Registry
from launch.clusters.base import Cluster, Job, Prepared, Resources, State
from launch.clusters.files import kind_of
from launch.clusters.local.cluster import Local
from launch.clusters.slurm.cluster import Slurm

CLUSTERS: Registry[type[Cluster[Any]]] = Registry("cluster", {"slurm": Slurm, "local": Local})

__all__ = ["CLUSTERS", "Cluster", "Job", "Prepared", "Resources", "State", "cluster_for", "cluster_of"]


def cluster_of(kind: str) -> Cluster[Any]:
    """The cluster of this name in the list. ValueError for an unknown name."""
    return CLUSTERS[kind](kind)


def cluster_for(name: str) -> Cluster[Any]:
    """The cluster that `--cluster NAME` selects: a kind, or a file's kind; the first of the list if there is none."""
    return cluster_of(name if name in CLUSTERS else kind_of(name) or next(iter(CLUSTERS)))
