"""What every long-running process stands on: clock, keyed work loop, tasks, logging."""
