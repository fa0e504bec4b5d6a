local field = 'from:' .. ARGV[6]
local state, refusal = enter(field)
if not state then return refusal end
local watermark, memory = state[4] or '', tonumber(ARGV[9])
if watermark ~= ARGV[7] then return { 0, watermark } end
local count = tonumber(ARGV[8])
if count == 0 then return { 1, watermark } end

local oldest = clock() - memory
forget_delivered(oldest)
for i = 10, 9 + 3 * count, 3 do
  local key, id, event = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local delivered = call('ZSCORE', DELIVERED, key)
  if not delivered or tonumber(delivered) < oldest then
    call('ZADD', DELIVERED, text_of_now, key)
    post(event, string.byte(id, -1) % 2 == 1)
  end
  watermark = id
end
call('HSET', META, field, watermark)
return leave({ 1, watermark })
