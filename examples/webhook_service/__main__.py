"""Run the demonstration: ``python -m examples.webhook_service`` from the root of a clone."""

import sys

from .demo import main

if __name__ == "__main__":
    sys.exit(main())
