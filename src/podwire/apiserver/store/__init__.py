"""Where objects live: one global revision, durable writes, watchable history."""
