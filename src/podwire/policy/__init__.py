"""NetworkPolicy and its successors: what they mean, who reaches whom, and their enforcement in the kernel."""
