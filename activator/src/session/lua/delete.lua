-- Deletes a session's data if the condition holds. Nothing there is no error.
-- KEYS[1]  the data
-- ARGV     deadline, condition, etags of the condition ...
-- returns  {'late' | 'mismatch' | 'deleted', etag that was there before, or false}
if late(ARGV[1]) then return {'late', false} end
local current = redis.call('HGET', KEYS[1], 'etag')
if not holds(ARGV[2], current, 3) then return {'mismatch', current} end
redis.call('DEL', KEYS[1])
return {'deleted', current}
