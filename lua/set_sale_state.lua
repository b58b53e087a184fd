-- Move a sale that has stock to another state: close, pause or fence it, or open it again.
-- GUARANTEE: a sale that Redis does not know, or that is fenced for a rebuild, stays as it is.
-- KEYS[1] sk:{sale}:stock (STRING)
-- KEYS[2] sk:{sale}:sale (HASH)
-- ARGV[1] state to set
-- RETURNS {"OK"} | {"MISSING"} | {"FENCED"}
-- SAFE BECAUSE the test and the write are one script: no rebuild can happen in between.
local stock_key, sale_key = KEYS[1], KEYS[2]
local state = redis.call("HGET", sale_key, "state")
if not state or redis.call("EXISTS", stock_key) == 0 then
  return {"MISSING"}
end
if state == "fenced" then
  return {"FENCED"}
end
redis.call("HSET", sale_key, "state", ARGV[1])
return {"OK"}
