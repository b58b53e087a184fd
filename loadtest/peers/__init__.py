"""Servers to measure ours against: what others would write for the same work, or for none."""
