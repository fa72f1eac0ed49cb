"""The control loops of a cluster: workloads, scheduling, endpoints, addresses, garbage.

Each loop is a folder: pure floors that plan (snapshot -> wanted writes) and an ``agent.py`` that reads
informers, calls the plan and writes. What the loops share lies beside them: ``shared`` (one informer per
resource), ``children`` (objects that a loop owns, seen without staleness), ``events`` (the recorder).

Everything is level-triggered: a loop may die between any two writes and finds its way from what it reads.
"""
