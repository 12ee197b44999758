-- now, lease in milliseconds. How many jobs were given back.
local now, lease, at = ARGV[5], tonumber(ARGV[6]), micros() / 1000
local watch = call('HMGET', P .. 'watch', 'since', 'last')
local since, last = tonumber(watch[1]), tonumber(watch[2])

-- Where nobody looked for long the server was away, or stood still, or its clock was set; or nobody was there. Nobody could
-- have beaten meanwhile, and everybody has a lease from now on.
local is_anew = not last or at < last or at - last > math.max(5000, lease / 2)
if is_anew then since = at end
call('HSET', P .. 'watch', 'since', text(since), 'last', text(at))

-- Who beat before the clock was put back would be alive until the clock is there again.
if last and at < last then
  for _, worker in ipairs(call('ZRANGE', P .. 'workers', 0, -1)) do
    call('ZADD', P .. 'workers', text(at), worker)
  end
  for _, stream in ipairs(streams()) do
    local from = '-'
    repeat
      local pending = call('XPENDING', stream, GROUP, from, '+', 1000)
      for _, entry in ipairs(pending) do
        call('XCLAIM', stream, GROUP, entry[2], 0, entry[1], 'IDLE', 0, 'JUSTID')
        from = '(' .. entry[1]
      end
    until #pending == 0
  end
end
if at - since < lease then return 0 end

local taken = 0
for _, worker in ipairs(call('ZRANGEBYSCORE', P .. 'workers', '-inf', text(at - lease))) do
  taken = taken + dismiss(worker, interrupt, now)
end
-- What a worker that lives does not speak of: it never heard that the job is its own.
for _, stream in ipairs(streams()) do
  local from = '0-0'
  repeat
    local claimed = call('XAUTOCLAIM', stream, GROUP, 'nobody', text(lease), from, 'COUNT', 1000, 'JUSTID')
    from = claimed[1]
    for _, entry in ipairs(claimed[2]) do
      if take_back(stream, entry, interrupt, now) then taken = taken + 1 end
    end
  until from == '0-0'
end

-- Streams that nothing is in.
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
if taken > 0 then ring() end
return taken
