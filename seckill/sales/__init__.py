"""Sales, their limits and their stock."""
