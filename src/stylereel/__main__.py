"""`python -m stylereel` is the command `stylereel`."""

import sys

from stylereel.cli import main

sys.exit(main())
