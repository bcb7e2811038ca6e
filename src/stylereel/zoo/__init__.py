"""Other people's weight files, read safely: nothing in them is ever run."""
