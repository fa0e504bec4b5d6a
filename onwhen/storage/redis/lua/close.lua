-- Close a partition to all scripts, unless somebody owns it, or open it again. KEYS: its meta. ARGV: format, what the
-- format is instead while it is closed, and whether it is to be closed (1) or opened (0).
local META = KEYS[1]
local state = redis.call('HMGET', META, 'format', 'token', 'until', 'worker')
if state[1] ~= ARGV[1] and state[1] ~= ARGV[2] then return 'BADFMT' end
if ARGV[3] == '0' then
  redis.call('HSET', META, 'format', ARGV[1])
  return 'OK'
end
local time = redis.call('TIME')
local left = state[2] and tonumber(state[3]) - (time[1] * 1000000 + time[2]) or 0
if left > 0 then return { state[4], string.format('%.0f', left) } end
redis.call('HSET', META, 'format', ARGV[2])
return 'OK'
