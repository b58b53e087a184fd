-- An order's amount must fit: else a grab would be accepted that can never become a row.
ALTER TABLE sales ADD CHECK (price_cents::numeric * per_order_max <= 9223372036854775807);
