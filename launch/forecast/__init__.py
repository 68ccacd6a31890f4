"""What a run will take on other hardware: `sivae plan`, with constants that are tabled or measured."""
