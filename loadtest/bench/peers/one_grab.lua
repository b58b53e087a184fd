-- Reserve units for one buyer: the work of lua/grab.lua for servers that call it once a grab.
-- GUARANTEE: a buyer holds at most one order of a sale; stock never goes below zero; a repeat gets
-- the first order_id in any state, in or out of the window; running twice changes nothing.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- KEYS[3] sk:{sale}:holders (HASH)
-- KEYS[4] sk:{sale}:outbox (STREAM)
-- ARGV[1] order_id 36 characters
-- ARGV[2] buyer_id
-- ARGV[3] quantity units, a whole number
-- ARGV[4] deadline_ms Redis time; after it nothing is touched, because no buyer waits any more
-- ARGV[5] settled outbox_id of an earlier grab, to be dropped, or ""
-- ARGV[6] outbox_max entries
-- RETURNS {"OK", now_ms, epoch, left, outbox_id or "", outcome, order_id if that is D}
--   outcome is a letter as in grab.lua: A accepted, D duplicate, N not open, C closed, P paused,
--   Q quantity not within the sale's limit, S sold out, F outbox full
-- RETURNS {"LATE", now_ms} | {"MISSING", now_ms} | {"FENCED", now_ms}
-- TIME is Redis's own, as in grab.lua.
-- SAFE BECAUSE test, decrement, holder and outbox entry are one script, and every step that can
-- fail (reads, packing, the reply) comes before the first write: scripts do not roll back.
local stock_key, sale_key, holders_key, outbox_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local order_id, buyer_id, quantity = ARGV[1], ARGV[2], tonumber(ARGV[3])
local deadline_ms, settled, outbox_max = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])

local time = redis.call("TIME")
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if now_ms > deadline_ms then
  return {"LATE", now_ms}
end

local sale = redis.call("HMGET", sale_key, "state", "opens_at_ms", "closes_at_ms",
  "per_order_max", "epoch")
local state, opens_at_ms, closes_at_ms = sale[1], tonumber(sale[2]), tonumber(sale[3])
local per_order_max, epoch = tonumber(sale[4]), sale[5]
local stock = redis.call("GET", stock_key)
if not state or (state ~= "created" and not stock) then
  return {"MISSING", now_ms}
end
if state == "fenced" then
  return {"FENCED", now_ms}
end

local holder = redis.call("HGET", holders_key, buyer_id)
local outbox_full = redis.call("XLEN", outbox_key) >= outbox_max
local left = tonumber(stock or 0)
local outcome, held = "A", nil
if holder then
  outcome, held = "D", string.sub(holder, 1, 36)
elseif state == "created" or now_ms < opens_at_ms then
  outcome = "N"
elseif state == "closed" or (closes_at_ms > 0 and now_ms >= closes_at_ms) then
  outcome = "C"
elseif state == "paused" then
  outcome = "P"
elseif quantity < 1 or quantity > per_order_max then
  outcome = "Q"
elseif quantity > left then
  outcome = "S"
elseif outbox_full then
  outcome = "F"
end

local packed = nil
if outcome == "A" then
  left, packed = left - quantity, cmsgpack.pack({{order_id, buyer_id, quantity}})
end
local reply = {"OK", now_ms, tonumber(epoch), left, "", outcome, held}

if packed then
  reply[5] = redis.call("XADD", outbox_key, "*", "epoch", epoch, "grabs", packed)
  redis.call("HSET", holders_key, buyer_id, order_id .. ":" .. quantity)
  redis.call("DECRBY", stock_key, quantity)
end
if settled ~= "" then
  redis.call("XDEL", outbox_key, settled)
end
return reply
