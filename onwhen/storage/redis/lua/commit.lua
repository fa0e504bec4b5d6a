local state, refusal = enter('token')
if not state then return refusal end
local token, window, history = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
if token ~= '' and token ~= '=' .. (state[4] or '') then return 'FENCED' end
local OK, DONE, CONFLICT = 0, 1, 2
local NAME = #META - 1 -- where in the key of a subject its name begins

-- What most commits do not need, made by the first that does: to make it takes longer than one that does not.
local function rare()
  local WIDTHS = { -- the parts of a commit beyond properties that are set, and how many words each of their items has
    unset = 1, post = 2, cancel = 1, cancel_all = 1, timer = 4, retry = 4, dead = 2, history = 1,
    explain = 5,
  }
  local TYPES = {
    { LOG, 'stream' }, { FIRED, 'zset' }, { SEEN, 'hash' }, { WINDOW, 'list' }, { NAMES, 'zset' }, { AGENDA, 'zset' },
    { TIMERS, 'hash' }, { OWN, 'zset' }, { WAITING, 'zset' }, { RETRIES, 'hash' }, { SHELF, 'zset' }, { DEAD, 'hash' },
    { OUT, 'stream' }, { HISTORY, 'stream' }, { STARTS, 'hash' }, { EXPLAINED, 'stream' },
  }

  -- A script is not undone when one of its commands fails, so whatever could fail is looked at before the first write.
  local is_checked
  local function fault(first, final)
    local i = first
    while i <= final do
      local width, count = WIDTHS[ARGV[i]], tonumber(ARGV[i + 1])
      if not width or not count then return 'BADREQ' end
      i = i + 2 + width * count
    end
    if i ~= final + 1 then return 'BADREQ' end
    if is_checked then return end
    for _, pair in ipairs(TYPES) do
      local found = call('TYPE', pair[1]).ok
      if found ~= 'none' and found ~= pair[2] then return 'BADKEY ' .. pair[1] end
    end
    is_checked = true
  end

  local function take_retry(key)
    local old = call('HGET', RETRIES, key)
    if not old then return end
    call('ZREM', WAITING, string.sub(old, 1, 34) .. key)
    call('HDEL', RETRIES, key)
    call('HDEL', STARTS, key)
    if string.sub(old, 35, 35) == '1' then call('HINCRBY', META, 'parked', -1) end
  end

  local function take_timer(own)
    local old = call('HGET', TIMERS, own)
    if not old then return end
    call('ZREM', AGENDA, string.sub(old, 1, 34) .. own)
    call('ZREM', OWN, own)
    call('HDEL', TIMERS, own)
  end

  local function take_letter(id)
    local old = call('HGET', DEAD, id)
    if not old then return end
    call('ZREM', SHELF, string.sub(old, 1, 16) .. id)
    call('HDEL', DEAD, id)
  end

  local DO = {
    unset = function(subject, i, count) in_chunks('HDEL', subject, ARGV, i, i + count - 1) end,
    post = function(subject, i, count)
      for at = i, i + 2 * count - 1, 2 do
        if ARGV[at] == '' then post(ARGV[at + 1]) else send(ARGV[at], ARGV[at + 1]) end
      end
    end,
    cancel = function(subject, i, count)
      for at = i, i + count - 1 do take_timer(ARGV[at]) end
    end,
    cancel_all = function(subject, i)
      for _, own in ipairs(call('ZRANGEBYLEX', OWN, '[' .. ARGV[i], '(' .. ARGV[i] .. '\255')) do take_timer(own) end
    end,
    timer = function(subject, i, count)
      for at = i, i + 4 * count - 1, 4 do
        local own, order = ARGV[at], ARGV[at + 1] .. format('%.0f', number())
        take_timer(own)
        call('HSET', TIMERS, own, order .. ARGV[at + 2] .. ' ' .. ARGV[at + 3])
        call('ZADD', AGENDA, 0, order .. own)
        call('ZADD', OWN, 0, own)
      end
    end,
    retry = function(subject, i, count)
      for at = i, i + 4 * count - 1, 4 do
        local key, order = ARGV[at], ARGV[at + 1] .. format('%.0f', number())
        take_retry(key)
        call('HSET', RETRIES, key, order .. ARGV[at + 2] .. ARGV[at + 3])
        call('ZADD', WAITING, 0, order .. key)
        if ARGV[at + 2] == '1' then call('HINCRBY', META, 'parked', 1) end
      end
    end,
    dead = function(subject, i, count)
      for at = i, i + 2 * count - 1, 2 do
        local id, order = ARGV[at], format('%.0f', number())
        take_letter(id)
        call('HSET', DEAD, id, order .. ARGV[at + 1])
        call('ZADD', SHELF, 0, order .. id)
      end
    end,
    history = function() end, -- stored before anything is taken away
    explain = function(subject, i)
      local id = format('%.0f', number()) .. '-' .. ARGV[4]
      call('XADD', EXPLAINED, 'MAXLEN', '=', ARGV[i], id, 's', ARGV[i + 1], 'c', ARGV[i + 2], 'x', ARGV[i + 3],
        'b', ARGV[i + 4])
    end,
  }

  -- What a commit was about, before it takes that away.
  local function note(subject, handled, retried, change)
    local words = { 'w', change }
    if handled ~= '' then
      local found = call('XRANGE', LOG, handled, handled)
      words[3], words[4] = 'e', found[1][2][4]
    elseif retried ~= '' then
      words[3], words[4] = 'p', string.sub(call('HGET', RETRIES, retried), 36)
    end
    local id = format('%.0f', number()) .. '-' .. ARGV[4]
    call('XADD', HISTORY, 'MAXLEN', '=', history, id, 'a', text_of_now, 's', string.sub(subject, NAME),
      unpack(words))
  end

  -- The rare commit, with more than an event and properties. Its words: what is retried, its id, how many dead letters
  -- it revives, their ids, then parts: name, count of items, items.
  local function uncommon(subject, stored, handled, expected, first, final)
    local retried, id, revived = ARGV[first], ARGV[first + 1], tonumber(ARGV[first + 2])
    local parts = first + 3 + revived
    local broken = fault(parts, final)
    if broken then return broken end
    if handled ~= '' and not is_pending(handled) then return DONE end
    if retried ~= '' and call('HEXISTS', RETRIES, retried) == 0 then return DONE end
    for i = first + 3, parts - 1 do
      if call('HEXISTS', DEAD, ARGV[i]) == 0 then return DONE end
    end
    if id ~= '' and window > 0 and call('HEXISTS', SEEN, id) == 1 then return DONE end
    if stored ~= expected then return CONFLICT end
    return nil, retried, id, parts
  end

  local function apply(subject, handled, retried, id, first, parts, final)
    local touches, answer = retried ~= '' or parts > first + 3, OK
    for pass = 1, 2 do
      local i = parts
      while i <= final do
        local part, count = ARGV[i], tonumber(ARGV[i + 1])
        if pass == 1 then
          if part == 'history' then note(subject, handled, retried, ARGV[i + 2]) end
        else
          if part == 'post' then
            answer = format('%.0f', math.max(clock(), last + 1))
            for at = i + 2, i + 1 + 2 * count, 2 do touches = touches or ARGV[at] ~= '' end
          end
          touches = touches or part == 'retry'
          DO[part](subject, i + 2, count)
        end
        i = i + 2 + WIDTHS[part] * count
      end
      if pass == 1 then
        if retried ~= '' then take_retry(retried) end
        for at = first + 3, parts - 1 do take_letter(ARGV[at]) end
        if id ~= '' then remember(id, '', window) end
      end
    end
    if touches and token == '' then call('HINCRBY', META, 'touched', 1) end
    return answer
  end

  return { uncommon = uncommon, apply = apply }
end

local function write(subject, stored, version, first, count)
  if version == '-' then
    if stored ~= '' then
      call('DEL', subject)
      call('ZREM', NAMES, string.sub(subject, NAME))
    end
    return
  end
  if count <= CHUNK then
    call('HSET', subject, '_v', version, unpack(ARGV, first, first + count - 1))
  else
    call('HSET', subject, '_v', version)
    in_chunks('HSET', subject, ARGV, first, first + count - 1)
  end
  if stored == '' then call('ZADD', NAMES, 0, string.sub(subject, NAME)) end
end

local has_starts = call('HLEN', STARTS) > 0
local answers, i, rarely = {}, 10, nil
for c = 1, tonumber(ARGV[9]) do
  local subject, handled, expected, version = KEYS[FIXED + c], ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local count, more = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  local fields, rest = i + 5, i + 5 + count
  i = rest + more
  local stored = call('HGET', subject, '_v') or ''
  local answer, retried, id, parts
  if more > 0 then
    rarely = rarely or rare()
    answer, retried, id, parts = rarely.uncommon(subject, stored, handled, expected, rest, i - 1)
    if not answer then -- first what is done with it: the history is written while the entry is there
      answer = rarely.apply(subject, handled, retried, id, rest, parts, i - 1)
      if handled ~= '' then call('XDEL', LOG, handled) end
    end
  elseif stored ~= expected then
    answer = handled ~= '' and not is_pending(handled) and DONE or CONFLICT
  elseif handled ~= '' and call('XDEL', LOG, handled) == 0 then
    answer = DONE
  else
    answer, parts = OK, true
  end
  if parts then
    if handled ~= '' then
      if string.byte(handled, -1) % 2 == 1 then call('ZREM', FIRED, handled) end
      if has_starts then call('HDEL', STARTS, handled) end
    end
    if version ~= '' then write(subject, stored, version, fields, count) end
  end
  answers[c] = answer
end
return leave(answers)
