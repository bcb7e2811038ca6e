"""Kernels that run the generators faster on a CPU."""
