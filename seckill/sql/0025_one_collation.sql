-- Text keys of all tables have one collation. 0013_text_by_bytes.sql has left them as they are where
-- the database sorts by bytes itself, and later tables say "C". An index does not serve a comparison
-- by another collation than its own, even by one that sorts alike.
DO $$
DECLARE
  keyed record;
BEGIN
  -- PostgreSQL 13 and 14 have no datlocprovider: it is always the C library's.
  IF (SELECT coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' AND datcollate IN ('C', 'POSIX')
        FROM pg_database d WHERE datname = current_database()) THEN
    FOR keyed IN
      SELECT a.attrelid::regclass AS relation,
             string_agg(format('ALTER %I TYPE text COLLATE "default"', a.attname), ', ') AS changes
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
       WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
         AND a.attnum > 0 AND NOT a.attisdropped
         AND a.atttypid = 'text'::regtype AND a.attcollation = 'pg_catalog."C"'::regcollation
       GROUP BY a.attrelid
       ORDER BY a.attrelid
    LOOP
      EXECUTE format('ALTER TABLE %s %s', keyed.relation, keyed.changes);
    END LOOP;
  END IF;
END $$;
