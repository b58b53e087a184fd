-- nginx's side of a grab: the ticket's buyer (its MAC is not checked), one EVALSHA of one_grab.lua
-- over a kept connection, and the answer as the gateway words it. Nothing is handed to a broker.
local cjson = require "cjson.safe"
local redis = require "nginx.redis"

local file = assert(io.open(ngx.config.prefix() .. "/settings.json"))
local settings = assert(cjson.decode(file:read("*a")))
file:close()
local store, refusals = settings.redis, settings.refusals

local PROBLEM, JSON = "application/problem+json", "application/json"
-- Of no script: the first call is answered NOSCRIPT, and loads the script.
local sha = string.rep("0", 40)
local orders_made = 0
local sales = {}

-- The names of a sale's keys, and its outbox entries that are to be dropped, oldest first.
local function sale_of(sale_id)
  local sale = sales[sale_id]
  if not sale then
    sale = {keys = {}, entries = {}, first = 1, last = 0}
    for i, template in ipairs(settings.keys) do
      sale.keys[i] = string.format(template, sale_id)
    end
    sales[sale_id] = sale
  end
  return sale
end

-- There is no broker to wait for, so that a later grab drops the entry, as in the gateway.
local function to_be_dropped(sale, outbox_id)
  sale.last = sale.last + 1
  sale.entries[sale.last] = outbox_id
end

local function take_entry(sale)
  if sale.first > sale.last then
    return ""
  end
  local outbox_id = sale.entries[sale.first]
  sale.entries[sale.first] = nil
  sale.first = sale.first + 1
  return outbox_id
end

-- In the form of seckill/order_ids.py, of sale number 0. Unique, as one process counts.
local function new_order_id(now_ms)
  orders_made = orders_made + 1
  local upper = math.floor(now_ms / 65536)
  return string.format("%08x-%04x-8000-8000-%012x", upper, now_ms % 65536, orders_made)
end

local function answer(status, content_type, body)
  ngx.status = status
  ngx.header["Content-Type"] = content_type
  ngx.header["Content-Length"] = #body
  ngx.print(body)
end

local function refuse(name)
  answer(refusals[name].status, PROBLEM, refusals[name].body)
end

local function connect()
  local link = redis:new()
  link:set_timeout(settings.call_max_ms)
  local done, err = link:connect(store.host, store.port, {pool_size = store.connections_kept})
  if done and link:get_reused_times() == 0 then
    if store.password ~= "" then
      done, err = link:auth(store.user, store.password)
    end
    if done and store.database ~= 0 then
      done, err = link:select(store.database)
    end
  end
  return done and link, err
end

local function evalsha(link, keys, ...)
  return link:evalsha(sha, 4, keys[1], keys[2], keys[3], keys[4], ...)
end

-- The script's reply, or nil and what went wrong.
local function call(keys, ...)
  local link, err = connect()
  if not link then
    return nil, err
  end
  local reply
  reply, err = evalsha(link, keys, ...)
  if not reply and string.find(err, "NOSCRIPT", 1, true) then
    sha, err = link:script("load", settings.script)
    reply, err = evalsha(link, keys, ...)
  end
  if not reply then
    link:close()
    return nil, err
  end
  link:set_keepalive(0, store.connections_kept)
  return reply
end

local function grab(sale_id)
  local ticket = ngx.var.http_seckill_ticket
  local buyer_id = ticket and string.match(ticket, "^[^~]+~[^~]+~([^~]+)~")
  if not buyer_id then
    return refuse("ticket")
  end
  ngx.req.read_body()
  local wish = cjson.decode(ngx.req.get_body_data())
  local quantity = type(wish) == "table" and wish.quantity
  if type(quantity) ~= "number" or quantity % 1 ~= 0 then
    return refuse("Q")
  end

  local sale = sale_of(sale_id)
  local now_ms = math.floor(ngx.now() * 1000 + 0.5)
  local order_id, dropped = new_order_id(now_ms), take_entry(sale)
  local deadline_ms = now_ms + settings.call_max_ms
  local reply, err = call(
    sale.keys, order_id, buyer_id, quantity, deadline_ms, dropped, settings.outbox_max
  )
  if not reply or reply[1] ~= "OK" then
    if dropped ~= "" then
      to_be_dropped(sale, dropped)
    end
    ngx.log(ngx.ERR, "no grab: ", err or reply[1])
    return refuse("U")
  end

  local outcome = reply[6]
  if outcome == "A" then
    to_be_dropped(sale, reply[5])
    answer(202, JSON, '{"order_id":"' .. order_id .. '","status":"queued","next_poll_ms":500}')
  elseif outcome == "D" then
    answer(200, JSON, '{"order_id":"' .. reply[7] .. '","status":"yours"}')
  else
    refuse(outcome)
  end
end

-- Our sold-out answer to whatever is asked, of no store: the least that such an answer costs.
local function constant()
  refuse("S")
end

return {grab = grab, constant = constant}
