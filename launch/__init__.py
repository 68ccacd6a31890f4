"""The `sivae` command, and how processes are started."""
