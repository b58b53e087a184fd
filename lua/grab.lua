-- Reserve units for a batch of buyers, and record the batch in the outbox, in one atomic step.
-- GUARANTEE: a buyer holds at most one order of a sale; stock never goes below zero; a repeat gets
-- the first order_id in any state but fenced, in or out of the window; running twice changes
-- nothing.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- KEYS[3] sk:{sale}:holders (HASH)
-- KEYS[4] sk:{sale}:outbox (STREAM)
-- ARGV[1] grabs MessagePack [[order_id, buyer_id, quantity], ...], at most 512
-- ARGV[2] deadline_ms Redis time; after it nothing is touched, because no buyer waits any more
-- ARGV[3] settled MessagePack [outbox_id, ...] confirmed by the broker, at most 512
-- ARGV[4] outbox_max entries
-- ARGV[5] traces MessagePack {order_id: traceparent} of the grabs that are traced, or ""
-- ARGV[6] caller id of the process; "" for none
-- ARGV[7] seen accepted calls of the caller, by the replies that it got
-- ARGV[8] seen_epoch in which it got them
-- RETURNS {"OK", now_ms, epoch, left, outbox_id or "", outcomes, order_id of each D in order}
--   outcomes has one letter for each grab: A accepted, D duplicate, N not open, C closed, P paused,
--   Q quantity not within the sale's limit, S sold out, F outbox full
-- RETURNS {"LATE", now_ms} | {"MISSING", now_ms} | {"FENCED", now_ms}
-- RETURNS {"BEHIND", now_ms, counted} Redis went back in time: it is fenced, calls seen are gone
-- TIME is Redis's own, so that the sale opens for every gateway at the same moment.
-- SAFE BECAUSE test, decrement, holder and outbox entry are one script, and every step that can
-- fail (reads, packing, the reply) comes before the first write: scripts do not roll back. Only the
-- caller raises its count, so grabs of others cannot hide that Redis went back in time.
local stock_key, sale_key, holders_key, outbox_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local deadline_ms, outbox_max, traces = tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5]

local time = redis.call("TIME")
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if now_ms > deadline_ms then
  return {"LATE", now_ms}
end

local sale = redis.call("HMGET", sale_key, "state", "opens_at_ms", "closes_at_ms",
  "per_order_max", "epoch", "calls:" .. ARGV[6])
local state, opens_at_ms, closes_at_ms = sale[1], tonumber(sale[2]), tonumber(sale[3])
local per_order_max, epoch = tonumber(sale[4]), sale[5]
local stock = redis.call("GET", stock_key)
if not state or (state ~= "created" and not stock) then
  return {"MISSING", now_ms}
end
if state == "fenced" then
  return {"FENCED", now_ms}
end

local counted = tonumber(sale[6] or 0)
if epoch == ARGV[8] and counted < tonumber(ARGV[7]) then
  redis.call("HSET", sale_key, "state", "fenced")
  return {"BEHIND", now_ms, counted}
end

local refusal = nil
if state == "created" or now_ms < opens_at_ms then
  refusal = "N"
elseif state == "closed" or (closes_at_ms > 0 and now_ms >= closes_at_ms) then
  refusal = "C"
elseif state == "paused" then
  refusal = "P"
end

local grabs, settled = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[3])
local buyers = {}
for i, grab in ipairs(grabs) do
  buyers[i] = grab[2]
end
local holders = redis.call("HMGET", holders_key, unpack(buyers))
local outbox_full = redis.call("XLEN", outbox_key) >= outbox_max

local left, taken = tonumber(stock or 0), 0
local outcomes, known, accepted, new_holders, own = {}, {}, {}, {}, {}
for i, grab in ipairs(grabs) do
  local order_id, buyer_id, quantity = grab[1], grab[2], grab[3]
  local held = own[buyer_id] or (holders[i] and string.sub(holders[i], 1, 36))
  if held then
    outcomes[i] = "D"
    known[#known + 1] = held
  elseif refusal then
    outcomes[i] = refusal
  elseif quantity < 1 or quantity > per_order_max then
    outcomes[i] = "Q"
  elseif quantity > left then
    outcomes[i] = "S"
  elseif outbox_full then
    outcomes[i] = "F"
  else
    outcomes[i] = "A"
    own[buyer_id] = order_id
    left, taken = left - quantity, taken + quantity
    accepted[#accepted + 1] = grab
    new_holders[#new_holders + 1] = buyer_id
    new_holders[#new_holders + 1] = order_id .. ":" .. quantity
  end
end
local packed = cmsgpack.pack(accepted)
local reply = {"OK", now_ms, tonumber(epoch), left, "", table.concat(outcomes), unpack(known)}

if taken > 0 then
  if ARGV[6] ~= "" then -- first, as Redis may forbid it: a count that is too high harms nothing
    redis.call("HINCRBY", sale_key, "calls:" .. ARGV[6], 1)
  end
  local more = traces == "" and {} or {"traces", traces}
  reply[5] = redis.call("XADD", outbox_key, "*", "epoch", epoch, "grabs", packed, unpack(more))
  redis.call("HSET", holders_key, unpack(new_holders))
  redis.call("DECRBY", stock_key, taken)
end
if #settled > 0 then
  redis.call("XDEL", outbox_key, unpack(settled))
end
return reply
