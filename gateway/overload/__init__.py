"""What keeps answers quick when more arrives than can be done: limits, shedding, spaced polls.

Promise: what is let in is answered soon; what is not is refused before it costs much, with the time
to come back.

Relies on: the sale's token bucket in Redis, which all processes share. Every other limit is of one
process.

Begin with `concurrency_limit.py` (too much in flight) and `rate_limiter.py` (too many from a buyer,
an address or for a sale). `aiohttp_protocol.py` and `connection_limits.py` refuse before a request
is parsed.
"""
