-- Return the holder of each buyer, and the outcome that a grab would have now. It only reads.
-- GUARANTEE: a holder is found in any state of the sale but fenced, in or out of its window, sold
-- out or not.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- KEYS[3] sk:{sale}:holders (HASH)
-- ARGV[1] buyers MessagePack [buyer_id, ...], at most 512
-- RETURNS {"OK", verdict, left, {holder or nil, ...}} | {"MISSING"} | {"FENCED"}
--   holder is "order_id:quantity"; verdict is N, C, P or S as in grab.lua, or A if stock is left
-- SAFE BECAUSE state and holders are read in one step: an empty Redis is MISSING, never "sold out".
local stock_key, sale_key, holders_key = KEYS[1], KEYS[2], KEYS[3]
local sale = redis.call("HMGET", sale_key, "state", "opens_at_ms", "closes_at_ms")
local state, opens_at_ms, closes_at_ms = sale[1], tonumber(sale[2]), tonumber(sale[3])
local stock = redis.call("GET", stock_key)
if not state or (state ~= "created" and not stock) then
  return {"MISSING"}
end
if state == "fenced" then
  return {"FENCED"}
end

local time = redis.call("TIME")
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local left = tonumber(stock or 0)
local verdict = left > 0 and "A" or "S"
if state == "created" or now_ms < opens_at_ms then
  verdict = "N"
elseif state == "closed" or (closes_at_ms > 0 and now_ms >= closes_at_ms) then
  verdict = "C"
elseif state == "paused" then
  verdict = "P"
end
local holders = redis.call("HMGET", holders_key, unpack(cmsgpack.unpack(ARGV[1])))
return {"OK", verdict, left, holders}
