-- Compare a sale with what PostgreSQL knows of it, and fence it if Redis went back in time.
-- GUARANTEE: a sale that lost nothing stays as it is; only a rebuild lifts a fence.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- KEYS[3] sk:{sale}:holders (HASH)
-- KEYS[4] sk:{sale}:outbox (STREAM)
-- ARGV[1] epoch of the sale in PostgreSQL
-- ARGV[2] placed id of the newest outbox entry of this epoch whose orders PostgreSQL has
-- ARGV[3] opened 1 if the sale was opened according to PostgreSQL, else 0
-- ARGV[4] fence 1 to fence a sale that went back in time, 0 to read only
-- RETURNS {"WHOLE", epoch, state, stock, corrections, holders, last_outbox_id}
-- RETURNS {"MISSING"} | {"FENCED"}
-- RETURNS {"BEHIND"} if it went back in time: its epoch is older, it is not opened yet, or its
--   outbox never reached the entry that PostgreSQL has
-- SAFE BECAUSE the caller read PostgreSQL first, and Redis only moves forward: a Redis that is
-- behind has lost data. Test and fence are one script, so no rebuild can happen in between; a
-- rebuild that ended before the script shows by its newer epoch.
local stock_key, sale_key, holders_key, outbox_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function parts(id)
  local ms, sequence = string.match(id, "^(%d+)-(%d+)$")
  return tonumber(ms), tonumber(sequence)
end

local sale = redis.call("HMGET", sale_key, "state", "epoch", "corrections")
local state, epoch = sale[1], tonumber(sale[2] or 0)
if state == "fenced" then
  return {"FENCED"}
end
local stock = redis.call("GET", stock_key)
if not state or (state ~= "created" and not stock) then
  return {"MISSING"}
end

local last = "0-0"
if redis.call("EXISTS", outbox_key) == 1 then
  local info = redis.call("XINFO", "STREAM", outbox_key)
  for i = 1, #info, 2 do
    if info[i] == "last-generated-id" then
      last = info[i + 1]
    end
  end
end
local last_ms, last_sequence = parts(last)
local placed_ms, placed_sequence = parts(ARGV[2])
local was_further = last_ms < placed_ms
  or (last_ms == placed_ms and last_sequence < placed_sequence)
local is_opened = state ~= "created" or ARGV[3] == "0"
local epoch_placed = tonumber(ARGV[1])

if epoch < epoch_placed or (epoch == epoch_placed and was_further) or not is_opened then
  if ARGV[4] == "1" then
    redis.call("HSET", sale_key, "state", "fenced")
  end
  return {"BEHIND"}
end
return {"WHOLE", epoch, state, stock, sale[3], redis.call("HLEN", holders_key), last}
