"""What is seen of a pool: tallies, metrics, logs, spans, the watchdog. Nothing here knows the pool."""
