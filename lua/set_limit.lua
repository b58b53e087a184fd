-- Give a token bucket a rate and a burst of its own, in place of the configured ones.
-- GUARANTEE: every process obeys from its next call on; no token is made by the change.
-- KEYS[1] sk:{sale}:bucket:{op} (HASH)
-- ARGV[1] rate tokens a second
-- ARGV[2] burst tokens
-- RETURNS {"OK"}
-- TIME is Redis's own. What accrued since the last call at the old rate is forgone.
-- SAFE BECAUSE both numbers and the level change in one script.
local bucket_key = KEYS[1]
local level = redis.call("HGET", bucket_key, "level")
redis.call("HSET", bucket_key, "rate", ARGV[1], "burst", ARGV[2])
if level then
  local time = redis.call("TIME")
  redis.call("HSET", bucket_key, "at", string.format("%.0f", time[1] * 1000000 + time[2]),
    "level", string.format("%.0f", math.min(tonumber(level), ARGV[2] * 1000000)))
end
return {"OK"}
