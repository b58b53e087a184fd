-- Text keys compare by bytes, whatever the collation of the database. Ids differ in every language's
-- order only where their bytes differ, so nothing was ever equal that should not be. But an order of
-- a language changes with the library that has it: after an upgrade of the operating system an
-- index that was sorted by the old order finds some of its rows no more, and takes a second one of
-- them. And it is an order that neither Python nor Redis has.
-- Cost: no table is written anew. The indexes of text keys are, while their table is locked, in a
-- database that does not sort by bytes already; docs/deploying.md says how long.
DO $$
DECLARE
  keyed record;
BEGIN
  -- PostgreSQL 13 and 14 have no datlocprovider: it is always the C library's.
  IF (SELECT coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' AND datcollate IN ('C', 'POSIX')
        FROM pg_database d WHERE datname = current_database()) THEN
    RETURN;
  END IF;
  FOR keyed IN
    SELECT a.attrelid::regclass AS relation,
           string_agg(format('ALTER %I TYPE text COLLATE "C"', a.attname), ', ') AS changes
      FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
     WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
       AND a.attnum > 0 AND NOT a.attisdropped
       AND a.atttypid = 'text'::regtype AND a.attcollation = 'pg_catalog.default'::regcollation
       AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey))
     GROUP BY a.attrelid
     ORDER BY a.attrelid
  LOOP
    EXECUTE format('ALTER TABLE %s %s', keyed.relation, keyed.changes);
  END LOOP;
END $$;
