"""The edge: HTTP in, answers out. Any number of processes share one port.

Promise: each request gets a true answer in milliseconds, or is refused in less. An outcome that is
not known is answered as such, never as "no". A process may be killed at any instant.

Relies on: `seckill` for every decision about units, orders and money. No file here knows the
consumers.

Begin with `app.py`, the table of routes and of what they need; `server.py` opens the ports. A grab
comes in at `grabs/connection.py`.
"""
