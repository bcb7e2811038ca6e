"""Training: one resumable loop and the recipes of the built-in weights."""
