"""What ``kubectl get`` prints, kind by kind: columns, and the cells of one object. Pure."""
