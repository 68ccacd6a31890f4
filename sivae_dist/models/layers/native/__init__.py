"""Element-wise parts of the layers for CPUs, in C++ that the machine's own compiler makes when it is first needed.

One file for all shapes and types, a few seconds of compilation, kept for later runs. Without a compiler layers use
torch's operations.
"""
