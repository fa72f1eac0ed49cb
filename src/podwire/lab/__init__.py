"""up and down: nodes, agents, the underlay; the one room that chooses real or fake."""
