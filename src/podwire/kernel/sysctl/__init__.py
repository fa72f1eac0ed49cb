"""/proc/sys/net of one network namespace."""
