"""One file a plugin: its directive, read; what it does to a query. CoreDNS' names and order."""
