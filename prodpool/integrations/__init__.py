"""Pools in the servers and frameworks that services run on. Each module needs the extra of its own name."""
