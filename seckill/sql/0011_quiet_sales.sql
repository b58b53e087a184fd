-- What keeps the cost of the pollers with the live sales, however many old ones there are.
-- A sale is quiet once it is over, both stores hold the same orders of it, and none is unpaid.

ALTER TABLE sales
  ADD COLUMN closed_at   timestamptz,
  -- What both stores said when the sale was found quiet (ChangeStamp in
  -- seckill/consistency/fencing.py). Null: the sale is live, and every pass of a poller looks at it.
  -- In an archived sale null means that its keys are gone from Redis.
  ADD COLUMN quiet_stamp text,
  -- Since when the sale is history: PostgreSQL alone has it. Never null again.
  ADD COLUMN archived_at timestamptz;

UPDATE sales SET closed_at = now() WHERE state = 'closed';

CREATE INDEX sales_live ON sales (number) WHERE quiet_stamp IS NULL AND archived_at IS NULL;
CREATE INDEX sales_quiet ON sales (number) WHERE quiet_stamp IS NOT NULL;
-- For GET /v1/sales.
CREATE INDEX sales_listed ON sales (number) WHERE opened_at IS NOT NULL AND archived_at IS NULL;
CREATE INDEX sales_archived ON sales (number) WHERE archived_at IS NOT NULL;
