"""Faces: finding and following one (`backend`), its crop (`placement`, `registration`) and the way back (`paste`), its
motion (`coefficients`)."""
