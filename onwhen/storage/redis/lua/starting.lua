local state, refusal = enter()
if not state then return refusal end
for i = 6, #ARGV, 3 do
  local which, is_retry = ARGV[i + 1], ARGV[i] == 'r'
  if is_retry and call('HEXISTS', RETRIES, which) == 1 or not is_retry and is_pending(which) then
    call('HSET', STARTS, which, ARGV[i + 2])
  end
end
return 0
