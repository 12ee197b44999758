-- Arguments: now, worker (or empty), the number of ended attempts, twelve values for each, and for each capacity: queue,
-- number. Returns for each attempt 1, 0 if its token is stale, or an error, and for each claimed job its values.
--
-- A call costs the server about a microsecond, and so most of the duration of this script: what several jobs have in
-- common is changed by one call for all of them.
local now, worker, many_ended = ARGV[4], ARGV[5], tonumber(ARGV[6])
local FIRST_CAPACITY = 7 + 12 * many_ended

local function claimed_values(ids)
  local jobs = {}
  for _, id in ipairs(ids) do
    local job = call('HMGET', job_key(id), 'token', 'name', 'label', 'payload', 'queue', 'attempt', 'origin',
      'enqueued_at', 'worker')
    if job[9] == worker then table.insert(jobs, { id, unpack(job, 1, 8) }) end
  end
  return jobs
end

local stored = stored_reply()
if stored then return { cjson.decode(stored)[1], claimed_values(cjson.decode(stored)[2]) } end

-- The changes that are made for all jobs of this script together: arguments by command and key, and numbers by queue.
local together, counted = {}, { waiting = {}, running = {} }

local function later(command, key, ...)
  local name = command .. ' ' .. key
  local change = together[name]
  if not change then
    change = { command, key }
    if command == 'XACK' then table.insert(change, GROUP) end
    together[name] = change
  end
  for _, value in ipairs({ ... }) do table.insert(change, value) end
  -- Lua passes at most 8,000 arguments.
  if #change > 1000 then
    call(unpack(change))
    together[name] = nil
  end
end

local function count_later(what, queue, by) counted[what][queue] = (counted[what][queue] or 0) + by end

local function change_together()
  for _, change in pairs(together) do call(unpack(change)) end
  for what, queues in pairs(counted) do
    for queue, by in pairs(queues) do
      if by ~= 0 then count(what, queue, by) end
    end
  end
end

-- Records that a job is done: most jobs, and the same as take and put.
local function record_done(job, at)
  local id = job.id
  local fields = { 'state', 'done', 'ended_at', now, 'worker', '', 'cancelling', '0' }
  if ARGV[at + 2] == '1' then
    for i, field in ipairs({ 'done', 'total', 'message' }) do
      table.insert(fields, field)
      table.insert(fields, ARGV[at + 2 + i])
    end
  end
  if ARGV[at + 6] ~= '' then
    table.insert(fields, 'output')
    table.insert(fields, string.sub(ARGV[at + 6], 2))
  end
  call('HSET', job_key(id), unpack(fields))
  if job.unique then call('HDEL', P .. 'uniques', unique_field(job)) end
  later('ZREM', P .. 'state:running', id)
  later('XACK', job.stream, job.entry)
  later('XDEL', job.stream, job.entry)
  later('ZADD', P .. 'state:done', id, id)
  later('ZADD', P .. 'ended', now, padded(id))
  count_later('running', job.queue, -1)
end

local function record_other(job, at)
  local id, ending, message = job.id, ARGV[at + 7], ARGV[at + 8]
  take(job)
  if ARGV[at + 2] == '1' then
    call('HSET', job_key(id), 'done', ARGV[at + 3], 'total', ARGV[at + 4], 'message', ARGV[at + 5])
  end
  if message ~= '' then fail(job, now, string.sub(message, 2)) end
  if ending == 'released' then
    release(job, now)
  elseif ending ~= 'retry' then
    job.cause = ARGV[at + 11]
    finish(job, ending, now)
  elseif may_wait_again(job, now) then
    job.wait = ARGV[at + 10]
    wait_until(job, ARGV[at + 9], now)
  end
  put(job)
  if not IS_FINISHED[job.state] then notify() end
end

local RUNNING = { 'state', 'token', 'queue', 'name', 'unique', 'stream', 'entry' }

local function record(at)
  local id, is_done = ARGV[at], ARGV[at + 7] == 'done'
  local job
  if is_done then
    local values = call('HMGET', job_key(id), unpack(RUNNING))
    job = { id = id }
    for i, field in ipairs(RUNNING) do job[field] = values[i] end
  else
    job = read(id)
  end
  if not job or job.state ~= 'running' or job.token ~= ARGV[at + 1] then return '0' end
  if is_done then record_done(job, at) else record_other(job, at) end
  return '1'
end

-- An outcome that cannot be recorded does not affect the others.
local recorded = {}
for i = 1, many_ended do
  local is_ok, result = pcall(record, 7 + 12 * (i - 1))
  recorded[i] = is_ok and result or (type(result) == 'table' and result.err or tostring(result))
end

-- Makes due jobs of all queues wait: jobs of full or paused queues would otherwise be due again at each claim. The
-- next claim continues, so that the server is not blocked.
local function make_due_jobs_wait()
  for _, member in ipairs(call('ZRANGEBYSCORE', P .. 'due', '-inf', now, 'LIMIT', 0, 2000)) do
    local job = read(unpadded(member))
    take(job)
    job.state = 'waiting'
    put(job)
  end
end

local function delivered(stream)
  for _, group in ipairs(call('XINFO', 'GROUPS', stream)) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    if facts['name'] == GROUP then return facts['last-delivered-id'] end
  end
  return '0-0'
end

-- Makes the first `many` entries of a stream pending.
local function read_group(stream, many)
  local read = call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', many, 'STREAMS', stream, '>')
  return read and read[1] and read[1][2] or {}
end

local function pend_late(queue, first)
  call('ZREM', P .. 'back:' .. queue, padded(first.id))
  if call('EXISTS', LATE) == 0 then call('XGROUP', 'CREATE', LATE, GROUP, '0', 'MKSTREAM') end
  call('XADD', LATE, '*', 'job', first.id)
  first.stream, first.entry = LATE, read_group(LATE, 1)[1][1]
end

-- Returns the first jobs of several streams and of the set of released jobs, merged by rank and pending.
local function first_of_all(queue, priorities, back, many)
  local first = {}
  for i = 1, #back, 2 do
    local id = unpadded(back[i])
    table.insert(first, { rank = tonumber(back[i + 1]), number = tonumber(id), id = id })
  end
  for _, priority in ipairs(priorities) do
    local stream = ready_stream(queue, priority)
    for _, entry in ipairs(call('XRANGE', stream, '(' .. delivered(stream), '+', 'COUNT', many)) do
      local since, id = string.match(entry[1], '^(%d+)-(%d+)$')
      local job = { since = since, priority = priority }
      table.insert(first, { rank = rank(job), number = tonumber(id), id = id, stream = stream, entry = entry[1] })
    end
  end
  table.sort(first, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    return a.number < b.number
  end)
  local chosen, of_stream = {}, {}
  for i = 1, math.min(many, #first) do
    local stream = first[i].stream
    if stream then of_stream[stream] = (of_stream[stream] or 0) + 1 else pend_late(queue, first[i]) end
    chosen[i] = first[i]
  end
  for stream, some in pairs(of_stream) do read_group(stream, some) end
  return chosen
end

-- Returns the first jobs of a queue, and makes them pending.
local function first_of(queue, many)
  local priorities = call('SMEMBERS', P .. 'priorities:' .. queue)
  local back = call('ZRANGE', P .. 'back:' .. queue, 0, many - 1, 'WITHSCORES')
  if #priorities ~= 1 or #back > 0 then return first_of_all(queue, priorities, back, many) end
  -- One stream has the jobs in their order.
  local stream, first = ready_stream(queue, priorities[1]), {}
  for i, entry in ipairs(read_group(stream, many)) do
    first[i] = { id = string.match(entry[1], '-(%d+)$'), stream = stream, entry = entry[1] }
  end
  return first
end

local function begin(first, at)
  local id, key = first.id, job_key(first.id)
  local job = call('HMGET', key, 'token', 'name', 'label', 'payload', 'queue', 'attempt', 'origin', 'enqueued_at')
  -- Unique among all claims of the job, even if the server has lost its last second: so the token is not a counter.
  local token = text(math.max(at, tonumber(job[1] or '0') + 1))
  local attempt = text(tonumber(job[6]) + 1)
  call('HSET', key, 'state', 'running', 'attempt', attempt, 'began_at', now, 'ended_at', '', 'token', token, 'worker',
    worker, 'stream', first.stream, 'entry', first.entry, 'done', '0', 'total', '0', 'message', '')
  later('ZREM', P .. 'state:waiting', id)
  later('ZADD', P .. 'state:running', id, id)
  job[1], job[6] = token, attempt
  return { id, unpack(job, 1, 8) }
end

local claimed, ids = {}, {}
local function claim(queue, many)
  if many == 0 or call('SISMEMBER', P .. 'paused', queue) == 1 then return end
  local first = first_of(queue, many)
  if #first == 0 then return end
  local at = micros()
  for _, job in ipairs(first) do
    table.insert(claimed, begin(job, at))
    table.insert(ids, job.id)
  end
  count_later('waiting', queue, -#first)
  count_later('running', queue, #first)
end

if worker ~= '' then
  make_due_jobs_wait()
  -- An expired worker gets no jobs until it has joined again.
  if call('HEXISTS', P .. 'workers', worker) == 1 then
    for at = FIRST_CAPACITY, #ARGV, 2 do claim(ARGV[at], tonumber(ARGV[at + 1])) end
  end
end
change_together()
if many_ended > 0 or #ids > 0 then reply(cjson.encode({ recorded, ids })) end
return { recorded, claimed }
