-- The currency of a sale's prices, by ISO 4217. Amounts stay integers of its smallest unit, whose
-- size seckill/currencies.py knows; a column `…_cents` holds yen where the sale is in yen. Entries
-- have the currency of the sale that their payment belongs to, top-ups that of SECKILL_CURRENCY.
-- Sales that exist get EUR. Cost: a constant default writes no row anew.
ALTER TABLE sales
  ADD COLUMN currency text NOT NULL DEFAULT 'EUR' CHECK (currency ~ '^[A-Z]{3}$');
