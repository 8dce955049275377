"""What a pool is told: its arguments, checked once."""
