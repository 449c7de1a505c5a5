-- Reads a session's data, and lets it live for its ttl from now on.
-- KEYS[1]  the data
-- returns  {body, type, etag}, or false
local found = redis.call('HMGET', KEYS[1], 'body', 'type', 'etag', 'ttl')
if not found[3] then return false end
redis.call('PEXPIRE', KEYS[1], found[4])
return {found[1], found[2], found[3]}
