"""Webhooks: events as signed HTTP requests to addresses of the shop (docs/webhooks.md).

It promises that an event is queued for each endpoint that wants it, in the transaction that removes
it from the outbox, and is sent until the endpoint takes it or three days are over. It relies on the
tables of `sql/0019_webhooks.sql`, and on `orders/event_outbox.py` for the events. Begin with
`deliveries.py`, then `sender.py`.
"""
