local state, refusal = enter()
if not state then return refusal end
local own, most, room, after = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]

-- Due moments have 18 digits: microseconds since the epoch, and 10^17. Doubles are not as exact.
local time = call('TIME')
local due = format('1%011.0f%06.0f', time[1], time[2])

local moved, is_elsewhere, is_cut, size = 0, 0, false, 0
for _, member in ipairs(call('ZRANGEBYLEX', AGENDA, '-', '(' .. due .. '\255', 'LIMIT', 0, most)) do
  if size > room then break end
  local key = string.sub(member, 35)
  local value = call('HGET', TIMERS, key)
  local space = string.find(value, ' ', 35, true)
  local target, event = string.sub(value, 35, space - 1), string.sub(value, space + 1)
  moved, size = moved + 1, size + #event
  if target == own then
    post(event, true)
  else
    send(target, event, true)
    is_elsewhere = 1
  end
  call('ZREM', AGENDA, member)
  call('ZREM', OWN, key)
  call('HDEL', TIMERS, key)
end
if is_elsewhere == 1 then call('HINCRBY', META, 'touched', 1) end

local entries, starts = {}, call('HLEN', STARTS) > 0
size = 0
for number, id in ipairs(after ~= '' and call('ZRANGEBYLEX', FIRED, after, '+', 'LIMIT', 0, most + 1) or {}) do
  is_cut = number > most or size > room
  if is_cut then break end
  local found = call('XRANGE', LOG, id, id)[1]
  if found then
    size = size + #found[2][4]
    entries[#entries + 1] = { id, found[2][2], found[2][4], starts and call('HGET', STARTS, id) or '0' }
  end
end
local first = call('ZRANGEBYLEX', AGENDA, '-', '+', 'LIMIT', 0, 1)[1]
local next_due = is_cut and due or first and string.sub(first, 1, 18) or ''
return leave({ entries, next_due, is_elsewhere, moved })
