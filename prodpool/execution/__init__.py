"""Running a task, settling it, and watching it while it runs."""
