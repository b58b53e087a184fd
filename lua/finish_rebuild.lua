-- Finish the rebuild of a sale: write its stock and terms, and lift the fence.
-- GUARANTEE: the fence is lifted once, by the rebuild that wrote every holder.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- KEYS[3] sk:{sale}:holders (HASH)
-- ARGV[1] epoch of the rebuild
-- ARGV[2] state of the sale in PostgreSQL
-- ARGV[3] stock units available there, or "" for a sale that was never opened
-- ARGV[4] holders that must be there
-- ARGV[5] opens_at_ms Unix time, 0 for at once
-- ARGV[6] closes_at_ms Unix time, 0 for never
-- ARGV[7] per_order_max units
-- ARGV[8] number of the sale, 24 bits
-- ARGV[9] total units of the sale
-- RETURNS {"OK"} | {"CONFLICT"} if another rebuild has taken over, or holders are missing
-- SAFE BECAUSE stock and holders were read in one transaction, so together they are the total; an
-- order that ended since then waits in stock_returns, and its units return after the fence.
local stock_key, sale_key, holders_key = KEYS[1], KEYS[2], KEYS[3]
local sale = redis.call("HMGET", sale_key, "state", "epoch")
local holders = redis.call("HLEN", holders_key)
if sale[1] ~= "fenced" or sale[2] ~= ARGV[1] or holders ~= tonumber(ARGV[4]) then
  return {"CONFLICT"}
end
if ARGV[3] ~= "" then
  redis.call("SET", stock_key, ARGV[3])
end
redis.call("HSET", sale_key, "state", ARGV[2], "opens_at_ms", ARGV[5], "closes_at_ms", ARGV[6],
  "per_order_max", ARGV[7], "number", ARGV[8], "total", ARGV[9], "corrections", 0)
return {"OK"}
