"""This host's worker processes, seen from the pool: each has a thread and a connection of its own here."""
