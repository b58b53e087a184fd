-- Move a sale's total from one number of units to another, and its stock by the difference.
-- GUARANTEE: the same step twice is one step; units that somebody holds are never taken.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- ARGV[1] epoch of the sale in PostgreSQL
-- ARGV[2] before units: the total that the caller takes it to have; one without a total has this
-- ARGV[3] after units: the total that it gets
-- RETURNS {"OK", left} | {"SHORT", left} fewer units are unsold than would be taken
-- RETURNS {"MOVED", total} it is neither the one nor the other | {"LATER"}
-- SAFE BECAUSE the total is compared and set in one script, so that a repeat finds the new one and a
-- call that arrives late finds another. A sale that is missing, fenced or of another epoch is being
-- rebuilt: "later".
local stock_key, sale_key = KEYS[1], KEYS[2]
local epoch, before, after = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local sale = redis.call("HMGET", sale_key, "state", "epoch", "total")
local stock = tonumber(redis.call("GET", stock_key) or "")
if not sale[1] or sale[1] == "fenced" or sale[2] ~= epoch or not stock then
  return {"LATER"}
end
local total = tonumber(sale[3] or before)
if total ~= before and total ~= after then
  return {"MOVED", total}
end
local left = stock + after - total
if left < 0 then
  return {"SHORT", stock}
end
redis.call("HSET", sale_key, "total", ARGV[3])
if after ~= total then
  redis.call("INCRBY", stock_key, ARGV[3] - total)
end
return {"OK", left}
