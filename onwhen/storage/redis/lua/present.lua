-- Which of several log entries, or retries, are there: 1 or 0 for each.
if call('HGET', META, 'format') ~= ARGV[1] then return 'BADFMT' end
local found = {}
for i = 3, #ARGV do
  if ARGV[2] == 'log' then
    found[#found + 1] = is_pending(ARGV[i]) and 1 or 0
  else
    found[#found + 1] = call('HEXISTS', RETRIES, ARGV[i])
  end
end
return found
