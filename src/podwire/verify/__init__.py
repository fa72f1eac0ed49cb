"""Who reaches whom, why, and what is wrong: answers from manifests or a cluster, without touching a kernel."""
