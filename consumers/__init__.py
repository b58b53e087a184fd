"""The worker roles: messages and clocks in, SQL and Redis out."""
