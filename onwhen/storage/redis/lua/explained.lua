-- Part of what explains turns, oldest first, and after which entry to go on; nothing if that was the last.
if call('HGET', META, 'format') ~= ARGV[1] then return 'BADFMT' end
local after, most, room, correlation, subject = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local found = {}
while most > 0 and room > 0 do
  local entries = call('XRANGE', EXPLAINED, after, '+', 'COUNT', 10)
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    most, room, after = most - 1, room - #fields[8], '(' .. entry[1]
    if (subject == '' or subject == '=' .. fields[2]) and (correlation == '' or correlation == '=' .. fields[4]) then
      found[#found + 1] = { entry[1], fields[2], fields[4], fields[6], fields[8] }
    end
  end
  if #entries < 10 then return { '', found } end
end
return { after, found }
