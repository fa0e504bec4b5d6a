local state, refusal = enter('token', 'until', 'was_released', 'touched')
if not state then return refusal end
local token, lease, worker = ARGV[6], tonumber(ARGV[7]), ARGV[8]
local was_released = state[6] or '1'
if state[4] ~= token then
  if state[4] and tonumber(state[5]) > clock() then return 0 end
  was_released = state[4] and '0' or '1'
end
call('HSET', META, 'token', token, 'worker', worker, 'was_released', was_released,
  'until', format('%.0f', clock() + lease))
return { tonumber(was_released), tonumber(state[7] or 0) }
