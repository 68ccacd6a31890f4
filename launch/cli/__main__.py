"""`python -m launch.cli`, for use without installing."""

from launch.cli import main

main()
