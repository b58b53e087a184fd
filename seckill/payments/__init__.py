"""Money: paying an order by wallet or card, refunding it, and fulfilling it.

It promises that an order is paid at most once, that money which comes too late goes back, and that
every cent is posted. It relies on the SQL functions of `sql/0005_payments.sql` and after, on the
engines in `transactions/`, and on a card provider that knows each idempotency key once. Begin with
`checkout.py` (wallets), then `card_payments.py`, `external_payments.py` (money that the shop took),
`refunds.py` and `fulfilment.py`.
"""
