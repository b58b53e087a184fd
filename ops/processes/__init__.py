"""Processes that this project starts: how they begin, are kept, and end."""
