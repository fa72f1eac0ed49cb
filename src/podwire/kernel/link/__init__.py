"""Links, addresses, neighbours and FDB entries (rtnetlink)."""
