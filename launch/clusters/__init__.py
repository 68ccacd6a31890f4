"""Clusters: where jobs run."""
