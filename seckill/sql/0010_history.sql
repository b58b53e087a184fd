-- How far PostgreSQL has come, so that a restored backup is noticed.

-- One row. The mark only grows, and Redis remembers it after each commit
-- (seckill/consistency/history.py). A mark below the remembered one is that of a restored backup.
CREATE TABLE history (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  mark     bigint  NOT NULL
);
INSERT INTO history (mark) VALUES (0);

-- Sales of which this database has forgotten something. They sell nothing, and none of their orders
-- expires, until `seckill sale recover`.
CREATE TABLE restored_sales (
  sale_id text        PRIMARY KEY REFERENCES sales,
  at      timestamptz NOT NULL DEFAULT now()
);
