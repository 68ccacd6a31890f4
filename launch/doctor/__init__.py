"""`sivae doctor`: checks the installation and the machine, and whether training works on it."""
