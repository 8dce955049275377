"""The record of one task, its future, and the closed sets of words for what becomes of it."""
