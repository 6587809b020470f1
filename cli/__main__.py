"""Runs the command line as `python -m streamdiffvsr.cli`, without an installation."""

import sys

from .app import main

sys.exit(main())
