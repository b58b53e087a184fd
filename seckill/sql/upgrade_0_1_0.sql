-- The first part of the upgrade of a database that has the old numbering of 0.1.0 (thirteen files,
-- 0001_schema.sql to 0014_events.sql). Those files made the tables that the present ones make, so
-- only functions and triggers differ. Here they get their present names. Then
-- seckill/adapters/migrations.py replaces every function by its present text.
ALTER FUNCTION tell_new_orders RENAME TO record_new_orders;
ALTER FUNCTION tell_changed_orders RENAME TO record_changed_orders;
ALTER FUNCTION tell_ended_sagas RENAME TO record_ended_sagas;
ALTER TRIGGER orders_tell_new ON orders RENAME TO orders_record_new;
ALTER TRIGGER orders_tell_changed ON orders RENAME TO orders_record_changed;
ALTER TRIGGER transactions_tell_ended ON transactions RENAME TO transactions_record_ended;
