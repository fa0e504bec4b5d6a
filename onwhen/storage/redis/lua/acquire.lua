local state, refusal = enter('token', 'until', 'was_released', 'touched', 'lease')
if not state then return refusal end
local token, lease, worker = ARGV[6], tonumber(ARGV[7]), ARGV[8]
local was_released = state[6] or '1'
if state[4] ~= token then
  local left = state[4] and tonumber(state[5]) - clock() or 0
  -- Of one that has far more left than it was given, a server has said so whose clock was ahead of this one's.
  if left > 0 and left <= 2 * tonumber(state[8]) then return 0 end
  was_released = state[4] and '0' or '1'
end
call('HSET', META, 'token', token, 'worker', worker, 'was_released', was_released,
  'until', format('%.0f', clock() + lease), 'lease', ARGV[7])
return { tonumber(was_released), tonumber(state[7] or 0) }
