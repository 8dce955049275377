"""Any executor with `submit` as a backend: tasks are handed over one by one."""
