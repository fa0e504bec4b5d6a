-- Mark a partition of a deployment that is being made. KEYS: its meta. ARGV: the mark.
redis.call('HSETNX', KEYS[1], 'format', ARGV[1])
return redis.call('HGET', KEYS[1], 'format')
