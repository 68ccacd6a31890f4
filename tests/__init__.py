"""A package, or an installed one (torch-fidelity brings a `tests`) would come before a folder without this file."""
