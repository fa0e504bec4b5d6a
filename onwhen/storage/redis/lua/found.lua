-- Make a deployment, or say what it was made with. KEYS: its meta. ARGV: format, partitions, window; "" is unsaid.
local META = KEYS[1]
if redis.call('EXISTS', META) == 0 then
  redis.call('HSET', META, 'format', ARGV[1], 'partitions', ARGV[2] ~= '' and ARGV[2] or ARGV[4], 'layout', '0',
    'window', ARGV[3] ~= '' and ARGV[3] or ARGV[5])
elseif ARGV[3] ~= '' then
  local made = redis.call('HMGET', META, 'format', 'partitions')
  if made[1] == ARGV[1] and (ARGV[2] == '' or made[2] == ARGV[2]) then redis.call('HSET', META, 'window', ARGV[3]) end
end
return redis.call('HMGET', META, 'format', 'partitions', 'layout', 'window', 'made')
