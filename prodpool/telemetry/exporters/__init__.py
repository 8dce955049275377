"""The snapshots of all pools, for one monitoring system each."""
