-- Arguments: now.
local now = ARGV[4]
for _, member in ipairs(call('ZRANGEBYSCORE', P .. 'due', '(' .. now, '+inf')) do
  local key = job_key(unpadded(member))
  local job = call('HMGET', key, 'wait', 'due_at')
  local due = job[1] ~= '' and tonumber(now) + tonumber(job[1])
  if due and due + CLOCK_SLACK < tonumber(job[2]) then
    call('HSET', key, 'due_at', text(due), 'since', text(due))
    call('ZADD', P .. 'due', text(due), member)
  end
end
local ticks = call('HGETALL', P .. 'ticks')
for at = 1, #ticks, 2 do
  if tonumber(ticks[at + 1]) > tonumber(now) + LATEST_TICK then call('HSET', P .. 'ticks', ticks[at], now) end
end
notify()
return 1
