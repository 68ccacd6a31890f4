"""The `sivae` command, and starting its processes."""
