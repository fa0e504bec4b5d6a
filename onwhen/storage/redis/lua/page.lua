-- Part of a list that is kept in order: members of a sorted set, and what a hash has for each.
if call('HGET', META, 'format') ~= ARGV[1] then return 'BADFMT' end
local lists = { timers = { AGENDA, TIMERS, 35 }, retries = { WAITING, RETRIES, 35 }, dead = { SHELF, DEAD, 17 } }
local list, room, found = lists[ARGV[2]], tonumber(ARGV[5]), {}
for _, member in ipairs(call('ZRANGEBYLEX', list[1], ARGV[3], '+', 'LIMIT', 0, ARGV[4])) do
  if room <= 0 then break end
  local key = string.sub(member, list[3])
  local value = call('HGET', list[2], key)
  room = room - #value
  found[#found + 1] = { member, value, call('HGET', STARTS, key) or '' }
end
return found
