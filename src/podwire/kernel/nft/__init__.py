"""nftables: whole scripts for the skeleton, netlink for elements."""
