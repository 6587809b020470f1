"""`python -m streamdiffvsr.cli`: the console script without an installation."""

import sys

from .app import main

sys.exit(main())
