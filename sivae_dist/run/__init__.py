"""A run's directory and its files, for everything that looks at it.

It needs neither torch nor settings: commands that only look, and scripts between two starts, import nothing else.
"""
