-- Take a token for each request from a bucket, and give each request without a token a turn.
-- GUARANTEE: over any t seconds at most rate * t + burst requests get a token, leases included; a
-- request that comes back within the grace after its turn gets one; a refusal costs no token.
-- KEYS[1] sk:{sale}:bucket:{op} (HASH)
-- KEYS[2] sk:{sale}:line:{op} (ZSET)
-- ARGV[1] names MessagePack [name, ...], at most 512
-- ARGV[2] wanted tokens to lease beyond the names
-- ARGV[3] rate tokens a second, unless the bucket has its own
-- ARGV[4] burst tokens, unless the bucket has its own
-- ARGV[5] lease_us for which leased tokens are valid
-- ARGV[6] grace_us for which a token is kept after a turn
-- ARGV[7] line_max turns
-- RETURNS {"OK", leased, rate, burst, wait_us of each name in order}
--   wait_us: 0 it has a token; above 0 the time until its turn; below 0 the same, but the line is
--   full and no token is kept
-- TIME is Redis's own, so that all gateways share one clock. The bucket has no TTL (it may hold a
-- rate set by an operator); the line expires with its last turn.
-- SAFE BECAUSE refill, test and take are one script. The bucket is smaller than the burst by the
-- tokens of one lease, so that leased tokens spent late keep the bound. Turns are one token apart
-- and start when no token is left, so level >= due + 1 holds until each turn is used or forgotten.
-- A request without a turn gets only a token above that level. Turns that are over are dropped
-- before the reads: they count for nothing, so that write is right whatever follows.
local bucket_key, line_key = KEYS[1], KEYS[2]
local names, wanted = cmsgpack.unpack(ARGV[1]), tonumber(ARGV[2])
local lease_us, grace_us, line_max = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local TOKEN = 1000000 -- in millionths, so that rate * microseconds is exact

local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local bucket = redis.call("HMGET", bucket_key, "rate", "burst", "level", "at")
local rate, burst = tonumber(bucket[1] or ARGV[3]), tonumber(bucket[2] or ARGV[4])

local depth, kept_back = burst * TOKEN, rate * lease_us
if kept_back >= TOKEN and kept_back <= depth / 2 then
  depth = depth - kept_back
else
  wanted = 0 -- a lease would be less than a token, or most of the burst
end
local keeps = depth >= rate * grace_us + TOKEN
if not keeps then
  line_max = 0 -- too small to keep tokens after a turn
end
local elapsed = math.max(0, now - tonumber(bucket[4] or now))
local level = math.min(depth, tonumber(bucket[3] or depth) + elapsed * rate)

redis.call("ZREMRANGEBYSCORE", line_key, "-inf", string.format("(%.0f", now - grace_us))
local due = redis.call("ZCOUNT", line_key, "-inf", string.format("%.0f", now))
local waiting = redis.call("ZCARD", line_key)
local last = redis.call("ZRANGE", line_key, -1, -1, "WITHSCORES")[2]
local tail = math.max(now, tonumber(last or now))
local scores = redis.call("ZMSCORE", line_key, unpack(names))

local turns, waits, claimed, added = {}, {}, {}, {}
for i, name in ipairs(names) do
  local turn = turns[name]
  if turn == nil then
    turn = tonumber(scores[i] or "")
  end
  if turn and turn <= now and level >= TOKEN then
    claimed[#claimed + 1] = name
    turns[name] = false
    level, due, waiting = level - TOKEN, due - 1, waiting - 1
    waits[i] = 0
  elseif level >= (keeps and waiting > 0 and due + 2 or 1) * TOKEN then
    level = level - TOKEN
    waits[i] = 0
  elseif turn and turn > now then
    waits[i] = turn - now
  elseif waiting < line_max then
    tail = tail + math.ceil(TOKEN / rate)
    turns[name] = tail
    waiting = waiting + 1
    added[#added + 1] = string.format("%.0f", tail)
    added[#added + 1] = name
    waits[i] = tail - now
  else
    waits[i] = now - tail - math.ceil(TOKEN / rate)
  end
end
local leased = 0
if waiting == 0 then
  if level > depth / 2 then
    wanted = wanted * 2 -- more than half full: unused leased tokens are missing nowhere else
  end
  leased = math.min(wanted, math.floor(level / TOKEN), math.ceil(rate * lease_us / TOKEN))
end
local reply = {"OK", leased, rate, burst, unpack(waits)}

level = level - leased * TOKEN
redis.call("HSET", bucket_key, "level", string.format("%.0f", level),
  "at", string.format("%.0f", now), "pace", rate)
if #claimed > 0 then
  redis.call("ZREM", line_key, unpack(claimed))
end
if #added > 0 then
  redis.call("ZADD", line_key, unpack(added))
  redis.call("PEXPIREAT", line_key, string.format("%.0f", (tail + grace_us) / 1000 + 1))
end
return reply
