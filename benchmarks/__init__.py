"""What prodpool costs, measured beside the bare executor: ``python -m benchmarks``."""
