"""The consumer pool: its manager, its workers and its control socket."""
