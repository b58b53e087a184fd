"""Whether the stores agree, and how they are made to."""
