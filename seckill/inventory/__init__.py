"""Units in Redis: reserved, on their way, given back."""
