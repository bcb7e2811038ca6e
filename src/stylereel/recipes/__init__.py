"""How the built-in weights are trained, one file a network."""
