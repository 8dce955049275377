"""What is seen of a pool: counters, snapshots, metrics, logs and spans. Nothing here knows the pool."""
