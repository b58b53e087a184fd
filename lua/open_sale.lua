-- Open a sale that PostgreSQL marks as never opened: write its stock, once.
-- GUARANTEE: stock that exists is never written over (a second run cannot reset a running sale),
-- and a sale of another number or epoch is never taken for this one.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- KEYS[3] sk:{sale}:holders (HASH)
-- ARGV[1] stock units
-- ARGV[2] opens_at_ms Unix time, 0 for at once
-- ARGV[3] closes_at_ms Unix time, 0 for never
-- ARGV[4] per_order_max units
-- ARGV[5] number of the sale, 24 bits
-- ARGV[6] epoch
-- RETURNS {"OPENED", left} | {"REOPENED", left} | {"CONFLICT"} if the sale is fenced,
--   incomplete, or of another number or epoch
-- No key has a TTL: if one expired during the sale, its units would be sold again.
-- SAFE BECAUSE the test and the writes are one script.
local stock_key, sale_key, holders_key = KEYS[1], KEYS[2], KEYS[3]
local sale = redis.call("HMGET", sale_key, "state", "number", "epoch")
local state = sale[1]
local stock = redis.call("GET", stock_key)
local fresh = not state or state == "created"
local is_whole = stock and sale[2] == ARGV[5] and sale[3] == ARGV[6]
local is_empty = not stock and redis.call("EXISTS", holders_key) == 0

if state == "fenced" or (fresh and not is_empty) or (not fresh and not is_whole) then
  return {"CONFLICT"}
end
if fresh then
  redis.call("HSET", sale_key, "state", "open", "opens_at_ms", ARGV[2], "closes_at_ms", ARGV[3],
    "per_order_max", ARGV[4], "number", ARGV[5], "epoch", ARGV[6], "corrections", 0,
    "total", ARGV[1])
  redis.call("SET", stock_key, ARGV[1])
  return {"OPENED", tonumber(ARGV[1])}
end
redis.call("HSET", sale_key, "state", "open")
return {"REOPENED", tonumber(stock)}
