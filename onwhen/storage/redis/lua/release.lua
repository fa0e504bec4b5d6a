local state, refusal = enter('token')
if not state then return refusal end
if state[4] ~= ARGV[6] then return 0 end
call('HDEL', META, 'token', 'until', 'worker', 'was_released', 'lease')
return 1
