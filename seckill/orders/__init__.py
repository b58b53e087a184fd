"""Orders in PostgreSQL, and the outbox of their events."""
