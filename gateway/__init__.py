"""The edge: HTTP in, answers out."""
