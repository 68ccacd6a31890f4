"""The game of appendix 9.6 with tables for networks: its equilibrium, and checks of Lemma 4 and Theorems 6 and 7.

    python -m sivae_dist.theory --out FOLDER

Nothing else in sivae uses it. docs/theory.md has the derivation beside the code.
"""
