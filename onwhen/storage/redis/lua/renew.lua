local state, refusal = enter('token', 'touched')
if not state then return refusal end
if state[4] ~= ARGV[6] then return {} end
forget_delivered(clock() - tonumber(ARGV[8])) -- also where nothing more is delivered
call('HSET', META, 'until', format('%.0f', clock() + tonumber(ARGV[7])), 'lease', ARGV[7])
return { tonumber(state[5] or 0) }
