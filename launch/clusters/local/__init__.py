"""Jobs in the background of this machine."""
