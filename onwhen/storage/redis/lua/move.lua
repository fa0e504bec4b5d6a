-- A step of a move to another number of partitions. KEYS: the deployment's meta. ARGV: format, step, what it needs.
-- `moving` says which move is under way: its layout, how many partitions that has, and a word that only its mover
-- knows. `leaving` names the layouts whose keys are to be removed: layout:partitions, each with a space behind it.
local META, step = KEYS[1], ARGV[2]
local state = redis.call('HMGET', META, 'format', 'partitions', 'layout', 'moving', 'leaving', 'latest', 'window')
if state[1] ~= ARGV[1] then return 'BADFMT' end
local partitions, layout, moving, leaving, latest = state[2], state[3], state[4], state[5] or '', state[6] or '0'
if step == 'look' then return state end

local function leave(layout, partitions)
  leaving = leaving .. layout .. ':' .. partitions .. ' '
  redis.call('HSET', META, 'leaving', leaving)
end

if step == 'cleaned' then -- layout:partitions
  local rest = {}
  for item in string.gmatch(leaving, '%S+') do
    if item ~= ARGV[3] then rest[#rest + 1] = item .. ' ' end
  end
  if #rest > 0 then redis.call('HSET', META, 'leaving', table.concat(rest)) else redis.call('HDEL', META, 'leaving') end
  return 'OK'
end

if step == 'begin' then -- partitions, word, layout that is left. Each move has a layout of its own: no two can mix.
  if layout ~= ARGV[5] then return 'OTHER' end
  if moving then leave(string.match(moving, '^(%d+) (%d+)')) end
  local new = string.format('%.0f', math.max(tonumber(layout), tonumber(latest)) + 1)
  moving = new .. ' ' .. ARGV[3] .. ' ' .. ARGV[4]
  redis.call('HSET', META, 'moving', moving, 'latest', new)
  return moving
end

if moving ~= ARGV[3] then return 'OTHER' end -- somebody else has begun anew, or has ended it
local new, count = string.match(moving, '^(%d+) (%d+)')
if step == 'switch' then
  leave(layout, partitions)
  redis.call('HSET', META, 'partitions', count, 'layout', new)
else -- give up
  leave(new, count)
end
redis.call('HDEL', META, 'moving')
return 'OK'
