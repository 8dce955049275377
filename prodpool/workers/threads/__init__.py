"""Threads as workers: loops in the threads of a backend, and an executor of daemon threads."""
