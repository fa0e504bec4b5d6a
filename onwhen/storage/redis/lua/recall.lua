-- Note what was accepted, or delivered, in a partition that is being copied, unless it is noted. KEYS: `seen`, `window`,
-- `delivered`. ARGV: `window` or `delivered`; for each its key, and its position or when it came. Answers 1 for those
-- that are new, else 0.
local answers = {}
for i = 2, #ARGV, 2 do
  local is_new
  if ARGV[1] == 'window' then
    is_new = redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
    if is_new == 1 then redis.call('RPUSH', KEYS[2], ARGV[i]) end
  else
    is_new = redis.call('ZADD', KEYS[3], 'NX', ARGV[i + 1], ARGV[i])
  end
  answers[#answers + 1] = is_new
end
return answers
