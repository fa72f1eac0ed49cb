"""What every workload loop knows of pods: their state, and how a template becomes one."""
