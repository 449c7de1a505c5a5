-- A request of the session came: tells the pod that served it last, and lets all parts of the session live on.
-- KEYS[1]  uid of the pod
-- KEYS[2]  the data, which has its own ttl
-- ARGV     ttl of the tie to the pod (ms)
-- returns  the pod's uid, or false
local pod = redis.call('GET', KEYS[1])
if pod then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
local ttl = redis.call('HGET', KEYS[2], 'ttl')
if ttl then redis.call('PEXPIRE', KEYS[2], ttl) end
return pod
