"""StatefulSets: pods with stable names, made, replaced and removed in order."""
