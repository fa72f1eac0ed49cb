"""What happens to nodes: their pod CIDRs, their silence, and the pods that they leave behind."""
