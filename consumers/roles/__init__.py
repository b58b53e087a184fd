"""The worker roles: each file is one role, from its promise to its `build()`."""
