"""The record of one task, its future, and the words for its outcomes."""
