"""Which task is next, and on which worker."""
