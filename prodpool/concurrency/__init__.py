"""What the standard library's threads, events and queues lack here: each module says what, and why."""
