-- Shared by the scripts that write data. Prepended to them; see store.rs.

-- Whether Redis' clock has passed `deadline` (in ms). A write that Redis gets late, because it stood still
-- while the write lay in its socket, has long been answered "unavailable": it must not undo newer writes.
local function late(deadline)
  local now = redis.call('TIME')
  return now[1] * 1000 + now[2] / 1000 > tonumber(deadline)
end

-- Whether the condition lets the write through. `current` is the stored etag, or false;
-- ARGV[first] and following are the etags that 'matches' accepts.
local function holds(condition, current, first)
  if condition == 'always' then return true end
  if condition == 'absent' then return not current end
  if condition == 'present' then return current ~= false end
  for i = first, #ARGV do
    if ARGV[i] == current then return true end
  end
  return false
end
