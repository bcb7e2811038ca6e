"""Tests use one thread: with two busy processes on two cores, threads that wait for each other are many times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
