-- Begin to rebuild a sale from PostgreSQL: fence it under a new epoch, and drop stock and holders.
-- GUARANTEE: of several rebuilds the one with the highest epoch continues, and the others stop.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- KEYS[3] sk:{sale}:holders (HASH)
-- ARGV[1] epoch that this rebuild gave the sale in PostgreSQL
-- RETURNS {"OK"} | {"CONFLICT"} if a rebuild of this or a later epoch has begun already
-- The outbox stays: its entries carry their old epoch, and each becomes a rejected row.
-- SAFE BECAUSE the order of every dropped holder has a committed row by now, and only the scripts
-- of a rebuild write to a fenced sale.
local stock_key, sale_key, holders_key = KEYS[1], KEYS[2], KEYS[3]
local epoch = tonumber(redis.call("HGET", sale_key, "epoch") or 0)
if epoch >= tonumber(ARGV[1]) then
  return {"CONFLICT"}
end
redis.call("HSET", sale_key, "state", "fenced", "epoch", ARGV[1])
redis.call("UNLINK", stock_key, holders_key)
return {"OK"}
