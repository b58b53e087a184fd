-- wrk: each request is another buyer's grab. Arguments: a file of BUYER<TAB>TICKET lines for the
-- sale of the URL, or of BUYER<TAB>TICKET<TAB>SALE lines; and the status that each grab must get.
function init(args)
  requests, sent, expected = {}, 0, tonumber(args[2])
  local body = '{"quantity":1}'
  local tail = "\r\nContent-Type: application/json\r\nContent-Length: " .. #body
    .. "\r\n\r\n" .. body
  for line in io.lines(args[1]) do
    local ticket, sale = line:match("\t([^\t]+)\t?([^\t]*)$")
    local path = sale ~= "" and "/v1/sales/" .. sale .. "/grabs" or wrk.path
    local head = "POST " .. path .. " HTTP/1.1\r\nHost: " .. wrk.headers["Host"]
      .. "\r\nSeckill-Ticket: " .. ticket
    -- LuaJIT hashes a few bytes of a string. Those in the middle are the ticket's MAC, if about as
    -- much comes after it as before it; otherwise all hashes are equal, and this takes minutes.
    local agent = "\r\nUser-Agent: " .. string.rep("w", math.max(1, #head - #tail - 47))
    -- Made beforehand: to make one takes longer than to send it.
    requests[#requests + 1] = head .. agent .. tail
  end
end

function request()
  sent = sent % #requests + 1
  return requests[sent]
end

-- With 202 expected: a ticket used twice answers 200, and so shows that there were too few of them.
function response(status)
  if status ~= expected then
    wrk.thread:stop()
    error("a grab was answered " .. status)
  end
end
