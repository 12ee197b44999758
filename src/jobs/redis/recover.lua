-- Arguments: now, lease in milliseconds, and for each expired worker: its name, and its last observed number of
-- heartbeats. Returns the number of released jobs, and those of them that are dead now.
local now, lease = ARGV[4], tonumber(ARGV[5])
local taken, dead = 0, {}

local function interrupt_or_die(job, now)
  interrupt(job, now)
  if job.state == 'dead' then table.insert(dead, job.id) end
end

for at = 6, #ARGV, 2 do
  local worker = ARGV[at]
  -- It may have sent a heartbeat just now.
  if call('HGET', P .. 'workers', worker) == ARGV[at + 1] then taken = taken + remove_worker(worker, interrupt_or_die, now) end
end

-- Releases jobs that a live worker has not listed for two leases: it never received the reply to that claim. After a
-- gap between two observations (the server was unreachable, was suspended, or had its clock set) no worker could list
-- its jobs, and the time starts again.
local at = micros() / 1000
local watch = call('HMGET', P .. 'watch', 'since', 'last')
local since, last, silence = tonumber(watch[1]), tonumber(watch[2]), math.max(2 * lease, 10000)
if not last or at < last or at - last > silence / 4 then since = at end
call('HSET', P .. 'watch', 'since', text(since), 'last', text(at))
for _, stream in ipairs(at - since >= silence and streams() or {}) do
  local from = '0-0'
  repeat
    local claimed = call('XAUTOCLAIM', stream, GROUP, 'nobody', text(silence), from, 'COUNT', 1000, 'JUSTID')
    from = claimed[1]
    for _, entry in ipairs(claimed[2]) do
      if take_back(stream, entry, interrupt_or_die, now) then taken = taken + 1 end
    end
  until from == '0-0'
end

-- Deletes empty streams.
for _, queue in ipairs(call('SMEMBERS', P .. 'queues')) do
  local priorities = P .. 'priorities:' .. queue
  for _, priority in ipairs(call('SMEMBERS', priorities)) do
    local stream = ready_stream(queue, priority)
    if call('XLEN', stream) == 0 then
      call('DEL', stream)
      call('SREM', priorities, priority)
    end
  end
  if call('EXISTS', priorities) == 0 then call('SREM', P .. 'queues', queue) end
end
if call('XLEN', LATE) == 0 then call('DEL', LATE) end
if taken > 0 then notify() end
return { taken, dead }
