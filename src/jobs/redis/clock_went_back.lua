-- now.
local now = ARGV[4]
for _, member in ipairs(call('ZRANGEBYSCORE', P .. 'due', '(' .. now, '+inf')) do
  local key = job_key(unpadded(member))
  local job = call('HMGET', key, 'wait', 'due_at')
  local due = job[1] ~= '' and tonumber(now) + tonumber(job[1])
  if due and due < tonumber(job[2]) then
    call('HSET', key, 'due_at', text(due), 'since', text(due))
    call('ZADD', P .. 'due', text(due), member)
  end
end
ring()
return 1
