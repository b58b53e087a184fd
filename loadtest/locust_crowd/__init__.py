"""A flash sale with locust's users."""
