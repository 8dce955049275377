"""How a caller hands in a task: `submit` and its kin, options, `map`."""
