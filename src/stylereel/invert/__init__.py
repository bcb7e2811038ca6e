"""From pictures back to codes: the built-in encoder."""
