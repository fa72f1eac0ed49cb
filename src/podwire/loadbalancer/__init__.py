"""Load-balancer addresses on the nodes' network segment: answered for by one node each (layer 2).

Announcement by BGP will be a second agent beside ``agent.py``, chosen by the pool's ``spec.advertisement``.
"""
