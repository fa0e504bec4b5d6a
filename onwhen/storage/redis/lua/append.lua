local state, refusal = enter()
if not state then return refusal end
local window, most = tonumber(ARGV[6]), tonumber(ARGV[7])

-- Which of the ids are known already: false where one is not.
local function known(first, final)
  local found, new = {}, 0
  for i = first, final, 2 * CHUNK do
    local keys = {}
    for at = i, math.min(i + 2 * CHUNK - 1, final), 2 do keys[#keys + 1] = ARGV[at] end
    for _, position in ipairs(window > 0 and call('HMGET', SEEN, unpack(keys)) or keys) do
      local is_known = window > 0 and position
      found[#found + 1] = is_known
      if not is_known then new = new + 1 end
    end
  end
  return found, new
end

-- All are new, and no two the same.
local function append_all(first, final)
  local base = format('%.0f', math.max(clock(), last + 1))
  local pairs_, keys = {}, {}
  for i = first, final, 2 do
    local id = post(ARGV[i + 1], false) .. '-' .. ARGV[4]
    pairs_[#pairs_ + 1], keys[#keys + 1] = ARGV[i], ARGV[i]
    pairs_[#pairs_ + 1] = id
  end
  if window > 0 and #keys > 0 then
    in_chunks('HSET', SEEN, pairs_, 1, #pairs_)
    in_chunks('RPUSH', WINDOW, keys, 1, #keys)
    forget(window)
  end
  return base
end

local function append_each(first, final)
  local answers = {}
  for i = first, final, 2 do
    local seen = window > 0 and call('HGET', SEEN, ARGV[i])
    if not seen then
      local n = post(ARGV[i + 1], false)
      remember(ARGV[i], n .. '-' .. ARGV[4], window)
      answers[#answers + 1] = '+' .. n
    else
      answers[#answers + 1] = seen ~= '' and is_pending(seen) and seen or ''
    end
  end
  return answers
end

local answers, i = {}, 9
for c = 1, tonumber(ARGV[8]) do
  local count, is_distinct, marks = tonumber(ARGV[i]), ARGV[i + 1] == '1', tonumber(ARGV[i + 2])
  local first = i + 3
  local final = first + 2 * count - 1
  i = final + 1 + 2 * marks
  local found, new = known(first, final)
  local backlog = call('XLEN', LOG)
  if new > 0 and backlog > 0 and backlog + new > most then
    answers[c] = backlog
  else
    if new == count and is_distinct then
      answers[c] = append_all(first, final)
    else
      answers[c] = append_each(first, final)
    end
    if marks > 0 then in_chunks('HSET', MARKS, ARGV, final + 1, i - 1) end
  end
end
return leave(answers)
