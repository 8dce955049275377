"""Runnable examples; they are part of the repository and not of the installed package."""
