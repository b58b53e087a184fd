"""Messages that could not become what they should, and how they end."""
