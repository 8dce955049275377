"""`python -m prodpool` is the command `prodpool`."""

import sys

from prodpool.cli import main

if __name__ == "__main__":
    sys.exit(main())
