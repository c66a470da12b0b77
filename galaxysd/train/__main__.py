"""`python -m galaxysd.train`: the verb `galaxysd train`."""

from __future__ import annotations

import sys

from galaxysd.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], verb="train"))
