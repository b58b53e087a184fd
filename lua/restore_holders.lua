-- Write holders of live orders back, while their sale is being rebuilt.
-- GUARANTEE: holders are written only under the fence and the epoch of the caller's own rebuild.
-- KEYS[1] sk:{sale}:sale (HASH)
-- KEYS[2] sk:{sale}:holders (HASH)
-- ARGV[1] epoch of the rebuild
-- ARGV[2] holders MessagePack [buyer_id, "order_id:quantity", ...], at most 512 pairs
-- RETURNS {"OK"} | {"CONFLICT"} if another rebuild has taken over
-- SAFE BECAUSE begin_rebuild.lua has emptied the hash, and the fence keeps other scripts out of it.
local sale_key, holders_key = KEYS[1], KEYS[2]
local sale = redis.call("HMGET", sale_key, "state", "epoch")
if sale[1] ~= "fenced" or sale[2] ~= ARGV[1] then
  return {"CONFLICT"}
end
local holders = cmsgpack.unpack(ARGV[2])
redis.call("HSET", holders_key, unpack(holders))
return {"OK"}
