-- What all scripts of a partition begin with: its keys, the time, order numbers, and who may go on.
-- KEYS 1 to 19 are those of `PartitionKeys.fixed`. No script reads what users wrote; it only moves it about.
local call, format, floor = redis.call, string.format, math.floor
local META, LOG, STARTS, FIRED, SEEN, WINDOW, MARKS, NAMES, AGENDA, TIMERS, OWN, WAITING, RETRIES, SHELF, DEAD, OUT,
  HISTORY, DELIVERED, EXPLAINED = unpack(KEYS, 1, 19)
local FIXED, CHUNK = 19, 4000 -- words that one command gets: unpack fails at 8,000

local now, text_of_now -- microseconds since the epoch, of this call
local last, is_moved -- the order number that was given last, and whether this call has given one

local function clock()
  if not now then
    local time = call('TIME')
    now = time[1] * 1000000 + time[2]
    text_of_now = format('%.0f', now)
  end
  return now
end

-- Order numbers grow, with the time where they can: so a server that has lost some does not give them out again.
local function number()
  is_moved = true
  last = math.max(clock(), last + 1)
  return last
end

local function leave(answer)
  if is_moved then call('HSET', META, 'n', format('%.0f', last)) end
  return answer
end

local function in_chunks(command, key, words, first, final)
  for i = first, final, CHUNK do
    call(command, key, unpack(words, i, math.min(i + CHUNK - 1, final)))
  end
end

-- ARGV of what writes begins with: format, client, epoch, and what ends the ids of others and of timers.
-- A call that its client has given up may still be on its way. Calls after it have a greater epoch, and once one of
-- those has come, it is refused.
local function enter(...)
  local state = call('HMGET', META, 'format', 'n', 'fence:' .. ARGV[2], ...)
  if state[1] ~= ARGV[1] then return nil, 'BADFMT' end
  last = tonumber(state[2] or 0)
  if ARGV[3] == '' then return state end -- calls that a token protects
  local epoch, fence = tonumber(ARGV[3]), tonumber(state[3] and string.match(state[3], '^%d+') or 0)
  if epoch < fence then return nil, 'STALE' end
  if epoch > fence then
    if fence == 0 then -- seldom enough to look whether others are of no use any more
      local all = call('HGETALL', META)
      for i = 1, #all, 2 do
        local since = string.match(all[i], '^fence:') and string.match(all[i + 1], ' (%d+)$')
        if since and tonumber(since) < clock() - 3600000000 then call('HDEL', META, all[i]) end
      end
    end
    clock()
    call('HSET', META, 'fence:' .. ARGV[2], ARGV[3] .. ' ' .. text_of_now)
  end
  return state
end

local function is_pending(id)
  return #call('XRANGE', LOG, id, id) > 0
end

-- Put an event into the log; ids of what came from a timer are odd.
local function post(event, is_timer)
  local n = format('%.0f', number())
  local id = n .. '-' .. ARGV[is_timer and 5 or 4]
  call('XADD', LOG, id, 'a', text_of_now, 'e', event)
  if is_timer then call('ZADD', FIRED, 0, id) end
  return n
end

local function send(target, event, is_timer)
  call('XADD', OUT, format('%.0f', number()) .. '-' .. ARGV[is_timer and 5 or 4], 't', target, 'e', event)
end

-- Forget what was delivered long ago; not all at once, others of the server wait.
local function forget_delivered(oldest)
  local gone = call('ZRANGEBYSCORE', DELIVERED, '-inf', '(' .. format('%.0f', oldest), 'LIMIT', 0, 1000)
  if #gone > 0 then call('ZREM', DELIVERED, unpack(gone)) end
end

-- Keep the latest of the window.
local function forget(window)
  local surplus = call('LLEN', WINDOW) - window
  while surplus > 0 do
    local gone = call('LPOP', WINDOW, math.min(surplus, CHUNK))
    call('HDEL', SEEN, unpack(gone))
    surplus = surplus - #gone
  end
end

local function remember(key, position, window)
  if window == 0 then return end
  call('HSET', SEEN, key, position)
  call('RPUSH', WINDOW, key)
  forget(window)
end
