"""Faces: finding and following one (`backend`), its crop (`placement`), its motion (`coefficients`)."""
