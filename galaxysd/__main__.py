"""`python -m galaxysd`: the command line without an installation."""

from __future__ import annotations

import sys

from galaxysd.cli import main

if __name__ == "__main__":
    sys.exit(main())
