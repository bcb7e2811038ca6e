"""What is true of the built-in people only: their latents, their encoder and the nets that read their portraits."""
