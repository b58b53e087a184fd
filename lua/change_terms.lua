-- Change the terms of an opened sale from which no buyer could grab yet.
-- GUARANTEE: a sale that has begun keeps its terms; the same change twice is one change.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- KEYS[3] sk:{sale}:holders (HASH)
-- ARGV[1] epoch of the sale in PostgreSQL
-- ARGV[2] opens_at_ms Unix time, 0 for at once
-- ARGV[3] closes_at_ms Unix time, 0 for never
-- ARGV[4] per_order_max units
-- RETURNS {"OK"} | {"BEGUN"} its opening is over, or buyers hold units | {"LATER"} if it is missing,
--   fenced, or of another epoch
-- TIME is Redis's own, by which grab.lua opens the sale.
-- SAFE BECAUSE the opening is compared with the time, and moved, in one script: no grab is in
-- between. A repeat after a crash finds the terms as they should be, even if it has begun by them.
local stock_key, sale_key, holders_key = KEYS[1], KEYS[2], KEYS[3]
local sale = redis.call("HMGET", sale_key, "state", "epoch", "opens_at_ms", "closes_at_ms",
  "per_order_max")
local state = sale[1]
if not state or state == "created" or state == "fenced" or sale[2] ~= ARGV[1]
  or redis.call("EXISTS", stock_key) == 0 then
  return {"LATER"}
end
if sale[3] == ARGV[2] and sale[4] == ARGV[3] and sale[5] == ARGV[4] then
  return {"OK"}
end
local time = redis.call("TIME")
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(sale[3]) <= now_ms or redis.call("EXISTS", holders_key) == 1 then
  return {"BEGUN"}
end
redis.call("HSET", sale_key, "opens_at_ms", ARGV[2], "closes_at_ms", ARGV[3],
  "per_order_max", ARGV[4])
return {"OK"}
