-- The text of external_payments has the collation of the columns that it is compared with: where the
-- database sorts by bytes itself, 0013_text_by_bytes.sql has left those as they are. An index does
-- not serve a comparison by another collation than its own, even by one that sorts alike.
DO $$
BEGIN
  -- PostgreSQL 13 and 14 have no datlocprovider: it is always the C library's.
  IF (SELECT coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' AND datcollate IN ('C', 'POSIX')
        FROM pg_database d WHERE datname = current_database()) THEN
    ALTER TABLE external_payments
      ALTER COLUMN reference TYPE text COLLATE "default",
      ALTER COLUMN sale_id   TYPE text COLLATE "default";
  END IF;
END $$;
