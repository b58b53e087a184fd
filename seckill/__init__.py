"""The kernel: what gateway, consumers and operator commands share.

It promises that each rule of a sale (a reservation, an order, a payment, a repair) is written once,
here, and raises the errors of `errors.py`. It relies on the scripts of `lua/`, the SQL functions of
`sql/` and the settings of `config/`; it serves no buyers and starts no process. Begin with
`inventory/reservations.py`, then `orders/orders.py` and `payments/checkout.py`.
"""
