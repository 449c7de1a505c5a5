-- Ties the session to a pod.
-- KEYS[1]  uid of the pod
-- ARGV     uid, ttl (ms)
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return true
