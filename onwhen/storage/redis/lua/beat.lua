-- Say that a worker lives. KEYS: the hash of workers. ARGV: id ("" to look only), seconds, note.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if ARGV[1] ~= '' then
  local left = tonumber(ARGV[2]) * 1000000
  if left > 0 then
    redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f %s', now + left, left, ARGV[3]))
  else
    redis.call('HDEL', KEYS[1], ARGV[1])
  end
end
local all, found = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local expires, given, note = string.match(all[i + 1], '^(%d+) (%d+) (.*)$')
  local left = tonumber(expires) - now
  if left > 0 and left <= 2 * tonumber(given) then -- more: a server has said so whose clock was ahead of this one's
    found[#found + 1] = { all[i], string.format('%.0f', left), note }
  elseif ARGV[1] ~= '' then
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return found
