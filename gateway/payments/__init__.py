"""Payments, as buyers and the card provider see them.

Promise: a payment that has begun goes on when its client leaves, and a repeat pays nothing twice.

Relies on: `seckill.payments`, which decides, and `gateway.orders` to find the order and to show it.

Begin with `routes.py`. `tasks.py` bounds how many payments are under way; `webhooks.py` takes the
reports of the provider, and `external.py` those of the shop's own checkout.
"""
