"""The schema: tables, and the SQL functions that change orders, money and transactions.

It promises that every change of units or money is one function call and one transaction, and that
each function stands in exactly one file. `seckill.adapters.migrations` applies the numbered files
in their order; that is also the order to read them in. Begin with 0001_schema.sql, then follow an
order: 0002_place_and_release.sql, 0005_payments.sql, 0007_fulfilment.sql. A file that was released
never changes: a change is a new numbered file, with `CREATE OR REPLACE` for a function.
upgrade_0_1_0.sql is no part of the schema: only a database that has the old numbering needs it.
"""
