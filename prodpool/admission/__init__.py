"""May a task come in: slots and overload policy, and the breaker."""
