-- Drop outbox entries whose batches the broker has confirmed, if no grab call does it on the way.
-- GUARANTEE: only the named entries go; naming one twice is harmless.
-- KEYS[1] sk:{sale}:outbox (STREAM)
-- ARGV[1] settled MessagePack [outbox_id, ...], at most 512
-- RETURNS {"OK", dropped}
-- SAFE BECAUSE a confirm means that the broker has the batch on disk.
local outbox_key = KEYS[1]
local settled = cmsgpack.unpack(ARGV[1])
return {"OK", redis.call("XDEL", outbox_key, unpack(settled))}
