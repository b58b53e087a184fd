-- Remove a sale from which no buyer could grab yet.
-- GUARANTEE: a sale that has begun stays; a sale that is gone is gone.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- KEYS[3] sk:{sale}:holders (HASH)
-- KEYS[4] sk:{sale}:outbox (STREAM)
-- ARGV[1] opened 1 if the sale was opened according to PostgreSQL, else 0
-- RETURNS {"OK"} | {"BEGUN"} its opening is over, or buyers hold units | {"LATER"} if it is fenced
--   | {"OPENED"} if it is open here alone: an opening broke off
-- TIME is Redis's own, by which grab.lua opens the sale.
-- SAFE BECAUSE the opening is compared with the time, and the keys removed, in one script: no grab
-- is in between.
local stock_key, sale_key, holders_key, outbox_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local sale = redis.call("HMGET", sale_key, "state", "opens_at_ms")
local state = sale[1]
if state == "fenced" then
  return {"LATER"}
end
if state and state ~= "created" then
  if ARGV[1] == "0" then
    return {"OPENED"}
  end
  local time = redis.call("TIME")
  local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  if tonumber(sale[2]) <= now_ms or redis.call("EXISTS", holders_key) == 1 then
    return {"BEGUN"}
  end
end
redis.call("UNLINK", stock_key, sale_key, holders_key, outbox_key)
return {"OK"}
