"""The stores of a stack, one file each: Redis, RabbitMQ and PostgreSQL.

Promise: a server of our own listens on the loopback interface alone, keeps its data, password and
log below the home, and has every write that it acknowledged on disk.

Relies on: `config/` for the settings that all instances share.

Begin with `server.py`, then `redis.py`, the shortest.
"""
