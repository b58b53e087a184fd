-- Return the units of ended orders: compare-and-delete each holder together with its units.
-- GUARANTEE: the units of a holder return exactly once; no key is ever created.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- KEYS[3] sk:{sale}:holders (HASH)
-- ARGV[1] epoch of the sale in PostgreSQL
-- ARGV[2] returns MessagePack [[buyer_id, "order_id:quantity", units], ...], at most 512; units is
--   the quantity, or less if PostgreSQL refused to freeze them (the rest becomes a correction)
-- RETURNS {"OK", left, outcomes} | {"LATER"}
--   outcomes has one letter for each entry: R returned, G gone (an earlier run did it)
-- SAFE BECAUSE units return only together with their holder: no holder, no units. A sale that is
-- missing, fenced or of another epoch is being rebuilt: "later", never "done".
local stock_key, sale_key, holders_key = KEYS[1], KEYS[2], KEYS[3]
local epoch = ARGV[1]

local sale = redis.call("HMGET", sale_key, "state", "epoch")
local stock = redis.call("GET", stock_key)
if not sale[1] or sale[1] == "fenced" or sale[2] ~= epoch or not stock then
  return {"LATER"}
end

local returns = cmsgpack.unpack(ARGV[2])
local buyers = {}
for i, entry in ipairs(returns) do
  buyers[i] = entry[1]
end
local holders = redis.call("HMGET", holders_key, unpack(buyers))

local outcomes, gone, units, correction = {}, {}, 0, 0
for i, entry in ipairs(returns) do
  local buyer_id, holder, quantity = entry[1], entry[2], tonumber(string.sub(entry[2], 38))
  if holders[i] == holder and not gone[buyer_id] then
    outcomes[i] = "R"
    gone[buyer_id] = true
    gone[#gone + 1] = buyer_id
    units = units + entry[3]
    correction = correction + quantity - entry[3]
  else
    outcomes[i] = "G"
  end
end

local left = tonumber(stock) + units
local reply = {"OK", left, table.concat(outcomes)}
if #gone > 0 then
  redis.call("HDEL", holders_key, unpack(gone))
  redis.call("INCRBY", stock_key, units)
end
if correction ~= 0 then
  redis.call("HINCRBY", sale_key, "corrections", correction)
end
return reply
