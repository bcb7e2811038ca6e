"""From pictures back to codes: the built-in encoder, and the published ones."""
