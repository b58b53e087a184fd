-- wrk: each request is another buyer's grab. Argument: a file of BUYER<TAB>TICKET lines for the sale
-- of the URL; or of BUYER<TAB>TICKET<TAB>SALE lines.
function init(args)
  tickets, paths, sent = {}, {}, 0
  for line in io.lines(args[1]) do
    local ticket, sale = line:match("\t([^\t]+)\t?([^\t]*)$")
    tickets[#tickets + 1] = ticket
    paths[#tickets] = sale ~= "" and "/v1/sales/" .. sale .. "/grabs" or wrk.path
  end
  wrk.method = "POST"
  wrk.body = '{"quantity":1}'
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  sent = sent % #tickets + 1
  wrk.headers["Seckill-Ticket"] = tickets[sent]
  return wrk.format(nil, paths[sent])
end

-- Only 202 counts: a ticket used twice answers 200, and so shows that there were too few of them.
function response(status)
  if status ~= 202 then
    wrk.thread:stop()
    error("a grab was answered " .. status)
  end
end
