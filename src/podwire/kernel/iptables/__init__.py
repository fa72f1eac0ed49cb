"""iptables and ip6tables of one network namespace."""
