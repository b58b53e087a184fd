"""Sales as buyers see them, and what they need before a grab: tickets, challenges."""
