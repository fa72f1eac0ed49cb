"""Bytes to values and back: netlink, DNS, SPDY, protobuf. Pure: no socket is opened here."""
