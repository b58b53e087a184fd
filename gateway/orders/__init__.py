"""A buyer's order: looked up, watched, cancelled."""
