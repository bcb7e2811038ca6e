"""Live: a camera moves a portrait while it runs. `session` is the pipeline."""
