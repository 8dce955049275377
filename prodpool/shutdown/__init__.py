"""Ending one pool, and ending the process."""
