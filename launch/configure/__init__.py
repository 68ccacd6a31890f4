"""`sivae configure`: a configuration for a data set and a machine, from recipes that were measured."""
