-- Stores a session's data if the condition holds.
-- KEYS[1]  the data: a hash of body, type, etag and ttl (ms after the last use)
-- ARGV     deadline, condition, body, type, etag, ttl, etags of the condition ...
-- returns  {'late' | 'mismatch' | 'replaced' | 'created', etag that was there before, or false}
if late(ARGV[1]) then return {'late', false} end
local current = redis.call('HGET', KEYS[1], 'etag')
if not holds(ARGV[2], current, 7) then return {'mismatch', current} end
redis.call('HSET', KEYS[1], 'body', ARGV[3], 'type', ARGV[4], 'etag', ARGV[5], 'ttl', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return {current and 'replaced' or 'created', current}
