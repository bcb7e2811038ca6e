"""Changing an attribute of a latent code: directions and flows."""
