-- Compare and set a cell. KEYS: its key. ARGV: `=` and what has to be there, `=` and what is there then, each nothing for
-- nothing; for how long (microseconds). It is kept behind the moment when that is over, and for how long that was.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found, value = redis.call('GET', KEYS[1]), ''
if found then
  local over, given, rest = string.match(found, '^(%d+) (%d+) ()')
  local left = tonumber(over) - now
  -- Of one that has far more left than it was given, a server has said so whose clock was ahead of this one's.
  if left > 0 and left <= 2 * tonumber(given) then value = '=' .. string.sub(found, rest) end
end
if value == ARGV[1] then
  value = ARGV[2]
  if value == '' then
    redis.call('DEL', KEYS[1])
  else
    local ttl = tonumber(ARGV[3])
    -- The server removes it a little later: its milliseconds are coarser.
    redis.call('SET', KEYS[1], string.format('%.0f %.0f ', now + ttl, ttl) .. string.sub(value, 2),
      'PX', string.format('%.0f', math.ceil(ttl / 1000) + 1))
  end
end
return { value, string.format('%.0f', now) }
