"""`/shop/v1`: what the shop's own programs may ask and change, on a port of its own.

Promise: no answer without a token that has the scope; what moves money or units happens once for
each `Idempotency-Key`, and is on record with the token's name. Buyers do not feel it: it has few
connections to PostgreSQL of its own, and a bound on what is in flight.

Relies on: the stores of the public application, and `seckill.shop` for tokens, pages of orders and
kept answers.

Begin with `app.py`, the table of its routes; `calls.py` is around each of them.
"""
