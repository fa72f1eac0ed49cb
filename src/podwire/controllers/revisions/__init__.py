"""ControllerRevisions: the templates that a StatefulSet or DaemonSet had, to roll back to."""
