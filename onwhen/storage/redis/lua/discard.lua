local state, refusal = enter()
if not state then return refusal end
local old = call('HGET', DEAD, ARGV[6])
if not old then return 0 end
call('ZREM', SHELF, string.sub(old, 1, 16) .. ARGV[6])
call('HDEL', DEAD, ARGV[6])
return 1
