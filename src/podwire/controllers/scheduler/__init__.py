"""The scheduler: which node a pod runs on. Filters, scores, one assumed-pod cache; no preemption."""
