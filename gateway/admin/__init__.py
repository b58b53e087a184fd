"""The admin port: health, metrics and what an operator may change."""
