"""Tests use one thread: on two cores, two busy processes with threads that wait for each other are far slower.

A shell that runs the tests in the background ignores SIGINT, and so would the commands that they start and interrupt.
"""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)
