-- What a sale's page shows beside the terms, and whether buyers see the sale at all.

ALTER TABLE sales
  ADD COLUMN name        text CHECK (length(name) BETWEEN 1 AND 200),
  -- The shop's own number of what is sold.
  ADD COLUMN sku         text CHECK (length(sku) BETWEEN 1 AND 64),
  ADD COLUMN picture_url text CHECK (picture_url LIKE 'https://%' AND length(picture_url) <= 2000),
  -- An object of the shop, shown to buyers as it is. As text it keeps the order of its keys.
  ADD COLUMN metadata    json NOT NULL DEFAULT '{}',
  -- A hidden sale is 404 to buyers, opened or not, until `announce_at`, or until an operator
  -- announces it.
  ADD COLUMN hidden      boolean NOT NULL DEFAULT false,
  ADD COLUMN announce_at timestamptz,
  ADD CHECK (hidden OR announce_at IS NULL);
