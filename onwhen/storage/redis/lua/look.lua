-- What a partition looks like from outside.
if call('HGET', META, 'format') ~= ARGV[1] then return 'BADFMT' end
local state = call('HMGET', META, 'token', 'until', 'worker', 'parked')
local left = state[1] and math.max(0, tonumber(state[2]) - clock()) or 0
local first, appended = call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1], 0
if call('EXISTS', LOG) == 1 then
  local facts = call('XINFO', 'STREAM', LOG)
  for i = 1, #facts, 2 do
    if facts[i] == 'entries-added' then appended = facts[i + 1] end
  end
end
return {
  state[3] or '', left, call('XLEN', LOG), first and first[2][2] or '', appended, call('XLEN', OUT),
  call('ZCARD', NAMES), call('ZCARD', AGENDA), call('HLEN', RETRIES), tonumber(state[4] or 0), call('HLEN', DEAD),
}
