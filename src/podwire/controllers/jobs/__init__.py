"""Jobs: pods that run until enough of them succeeded."""
