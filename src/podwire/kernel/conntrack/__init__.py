"""Connection tracking entries (ctnetlink)."""
