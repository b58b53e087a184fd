-- Give live orders of PostgreSQL the holders that Redis has lost, and take their units from stock.
-- GUARANTEE: no holder is written over; stock never goes below zero: missing units become a
-- negative correction, so that stock + held + corrections stays the total.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- KEYS[3] sk:{sale}:holders (HASH)
-- ARGV[1] epoch of the sale in PostgreSQL
-- ARGV[2] missing MessagePack [[buyer_id, "order_id:quantity"], ...], at most 512
-- RETURNS {"OK", left, outcomes} | {"LATER"}
--   outcomes has one letter for each entry: A added, H the buyer has a holder already
-- SAFE BECAUSE the caller keeps the rows locked, so no order can end before its holder exists.
-- A sale that is missing, fenced or of another epoch is left to its rebuild.
local stock_key, sale_key, holders_key = KEYS[1], KEYS[2], KEYS[3]

local sale = redis.call("HMGET", sale_key, "state", "epoch")
local stock = redis.call("GET", stock_key)
if not sale[1] or sale[1] == "fenced" or sale[2] ~= ARGV[1] or not stock then
  return {"LATER"}
end

local missing = cmsgpack.unpack(ARGV[2])
local buyers = {}
for i, entry in ipairs(missing) do
  buyers[i] = entry[1]
end
local holders = redis.call("HMGET", holders_key, unpack(buyers))

local outcomes, added, seen, units = {}, {}, {}, 0
for i, entry in ipairs(missing) do
  local buyer_id, holder = entry[1], entry[2]
  if holders[i] or seen[buyer_id] then
    outcomes[i] = "H"
  else
    outcomes[i] = "A"
    seen[buyer_id] = true
    units = units + tonumber(string.sub(holder, 38))
    added[#added + 1] = buyer_id
    added[#added + 1] = holder
  end
end

local taken = math.min(units, math.max(0, tonumber(stock)))
local reply = {"OK", tonumber(stock) - taken, table.concat(outcomes)}
if units > 0 then
  redis.call("HSET", holders_key, unpack(added))
  redis.call("DECRBY", stock_key, taken)
end
if taken < units then
  redis.call("HINCRBY", sale_key, "corrections", taken - units)
end
return reply
