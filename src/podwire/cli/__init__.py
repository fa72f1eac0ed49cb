"""The command line. Imports late: `podwire --help` answers in under 100 ms."""
