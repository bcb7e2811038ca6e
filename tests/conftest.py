"""Tests use one thread: on two cores, two busy processes with threads that wait for each other are far slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
