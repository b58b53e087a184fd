"""Clients of Redis, PostgreSQL, RabbitMQ and HTTP services, and the names of keys and queues.

They promise that every call has a time limit and that a failed call raises Unavailable: whether it
was done is then unknown, never "no". They retry nothing by themselves. Begin with `redis_keys.py`
and `topology.py`, which name what is stored where.
"""
