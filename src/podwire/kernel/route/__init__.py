"""Routes and rules (rtnetlink)."""
