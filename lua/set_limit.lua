-- Give a token bucket a rate and a burst of its own, in place of the configured ones.
-- GUARANTEE: every process uses the limit from its next call on; the same limit changes nothing.
-- KEYS[1] sk:{sale}:bucket:{op} (HASH)
-- ARGV[1] rate tokens a second
-- ARGV[2] burst tokens
-- RETURNS {"OK"}
-- TIME is Redis's own. Tokens since the last call count at the lower of the two rates; the field
-- `pace` holds the rate of the last call.
-- SAFE BECAUSE both numbers and the level change in one script.
local bucket_key = KEYS[1]
local rate, depth = tonumber(ARGV[1]), ARGV[2] * 1000000
local bucket = redis.call("HMGET", bucket_key, "level", "at", "pace")
local fields = {"rate", ARGV[1], "burst", ARGV[2]}
if bucket[1] then
  local time = redis.call("TIME")
  local now = time[1] * 1000000 + time[2]
  local accrued = math.max(0, now - tonumber(bucket[2])) * math.min(rate, tonumber(bucket[3] or 0))
  local level = math.min(depth, tonumber(bucket[1]) + accrued)
  fields = {"rate", ARGV[1], "burst", ARGV[2], "at", string.format("%.0f", now),
    "level", string.format("%.0f", level), "pace", rate}
end
redis.call("HSET", bucket_key, unpack(fields))
return {"OK"}
