-- What the shop's programs see of webhooks, and tokens that end by themselves (docs/shop-api.md).

-- A page of the deliveries of one endpoint is one step into this, however many others have.
CREATE INDEX webhook_deliveries_by_endpoint ON webhook_deliveries (endpoint_id, delivery_id);

-- Null: it never ends.
ALTER TABLE shop_tokens ADD COLUMN expires_at timestamptz;
