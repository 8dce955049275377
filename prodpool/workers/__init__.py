"""Who runs the tasks: the executors that lend workers, and how they are put to use."""
