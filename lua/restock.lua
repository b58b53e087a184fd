-- Move a sale's total from one number of units to another, and its stock by the difference.
-- GUARANTEE: the same step twice is one step; no unit of a holder is ever taken.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- ARGV[1] epoch of the sale in PostgreSQL
-- ARGV[2] before units: the total that the caller expects; a sale without a total counts as this
-- ARGV[3] after units: the total to set
-- RETURNS {"OK", left} | {"SHORT", left} if fewer units are unsold than would be taken
-- RETURNS {"MOVED", total} if the total is neither of the two | {"LATER"}
-- SAFE BECAUSE the total is compared and set in one script: a repeat finds the new total, and a
-- call that arrives late finds a third one. A sale that is missing, fenced or of another epoch is
-- being rebuilt: "later".
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
