-- Arguments: now, worker (or empty), the number of ended attempts, thirteen values for each, and for each capacity: queue,
-- number. Returns for each attempt 1, 0 if its token is stale, or an error; for each claimed job its values; and the last
-- other error, or an empty string.
--
-- A call costs the server about a microsecond, and so most of the duration of this script: what several jobs have in
-- common is changed by one call for all of them.
local now, worker, many_ended = ARGV[4], ARGV[5], tonumber(ARGV[6])
local FIRST_CAPACITY = 7 + 13 * many_ended

local function row(id, job)
  return { id, job[1], job[2], job[3], job[4], job[5], job[6], job[7], { job[8], job[9], job[10] } }
end

local function claimed_values(ids)
  local jobs = {}
  for _, id in ipairs(ids) do
    local job = call('HMGET', job_key(id), 'token', 'name', 'label', 'payload', 'queue', 'attempt', 'enqueued_at',
      'origin', 'trace', 'parent', 'worker', 'state')
    if job[11] == worker and job[12] == 'running' then jobs[#jobs + 1] = row(id, job) end
  end
  return jobs
end

local stored = stored_reply()
if stored then
  local first = cjson.decode(stored)
  return { first[1], claimed_values(first[2]), '' }
end

-- The changes that are made for several jobs together: arguments by command and key, and numbers by queue.
local together, counted = {}, { waiting = {}, running = {} }

-- Returns the arguments of a change, to which the caller appends.
local function change(command, key, group)
  local name = command .. key
  local arguments = together[name]
  -- Lua passes at most 8,000 arguments.
  if arguments and #arguments > 1000 then
    redis.pcall(unpack(arguments))
    arguments = nil
  end
  if not arguments then
    arguments = { command, key, group }
    together[name] = arguments
  end
  return arguments
end

local function append_to(arguments, value, member)
  arguments[#arguments + 1] = value
  if member then arguments[#arguments + 1] = member end
end

local function count_later(what, queue, by) counted[what][queue] = (counted[what][queue] or 0) + by end

-- Makes the changes, each even if another fails. Returns the error of the last one that failed.
local function change_together()
  local fault
  for _, arguments in pairs(together) do
    local result = redis.pcall(unpack(arguments))
    if type(result) == 'table' and result.err then fault = result.err end
  end
  for what, queues in pairs(counted) do
    for queue, by in pairs(queues) do
      if by ~= 0 then count(what, queue, by) end
    end
  end
  return fault
end

local STATE_WAITING, STATE_RUNNING, STATE_DONE = P .. 'state:waiting', P .. 'state:running', P .. 'state:done'

-- Records that a job is done: most jobs, and the same as take and put.
local function record_done(job, at)
  local id = job.id
  local fields = { 'state', 'done', 'ended_at', now }
  if job.cancelling == '1' then append_to(fields, 'cancelling', '0') end
  if ARGV[at + 2] == '1' then
    for i, field in ipairs({ 'done', 'total', 'message' }) do append_to(fields, field, ARGV[at + 2 + i]) end
  end
  if ARGV[at + 6] ~= '' then append_to(fields, 'output', string.sub(ARGV[at + 6], 2)) end
  call('HSET', job_key(id), unpack(fields))
  if job.unique then call('HDEL', P .. 'uniques', unique_field(job)) end
  append_to(change('ZREM', STATE_RUNNING), id)
  append_to(change('XACK', job.stream, GROUP), job.entry)
  append_to(change('XDEL', job.stream), job.entry)
  append_to(change('ZADD', STATE_DONE), id, id)
  append_to(change('ZADD', P .. 'ended'), now, padded(id))
  count_later('running', job.queue, -1)
end

local function record_other(job, at)
  local id, ending, failure = job.id, ARGV[at + 7], ARGV[at + 8]
  take(job)
  if ARGV[at + 2] == '1' then
    call('HSET', job_key(id), 'done', ARGV[at + 3], 'total', ARGV[at + 4], 'message', ARGV[at + 5])
  end
  if failure ~= '' then fail(job, now, failure) end
  if ending == 'released' then
    release(job, now)
  elseif ending ~= 'retry' then
    job.cause, job.group = ARGV[at + 11], group_of(job, ARGV[at + 12])
    finish(job, ending, now)
  elseif may_wait_again(job, now) then
    job.wait = ARGV[at + 10]
    wait_until(job, ARGV[at + 9], now)
  end
  put(job)
  if not IS_FINISHED[job.state] then notify() end
end

local function read_running(id)
  local values = call('HMGET', job_key(id), 'state', 'token', 'stream', 'entry', 'queue', 'cancelling', 'name', 'unique')
  return {
    id = id, state = values[1], token = values[2], stream = values[3], entry = values[4], queue = values[5],
    cancelling = values[6], name = values[7], unique = values[8],
  }
end

local function record(at)
  local id, is_done = ARGV[at], ARGV[at + 7] == 'done'
  local job = is_done and read_running(id) or read(id)
  if not job or job.state ~= 'running' or job.token ~= ARGV[at + 1] then return '0' end
  if is_done then record_done(job, at) else record_other(job, at) end
  return '1'
end

local function message_of(fault) return type(fault) == 'table' and fault.err or tostring(fault) end

-- An outcome that cannot be recorded does not affect the others.
local recorded = {}
for i = 1, many_ended do
  local is_ok, result = pcall(record, 7 + 13 * (i - 1))
  recorded[i] = is_ok and result or message_of(result)
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
  local first = first_waiting(queue, priorities, back, many)
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
  local back = first_released(queue, many)
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
  local job = call('HMGET', key, 'token', 'name', 'label', 'payload', 'queue', 'attempt', 'enqueued_at', 'origin', 'trace',
    'parent')
  -- Unique among all claims of the job, even if the server has lost its last second: so the token is not a counter.
  local token = text(math.max(at, tonumber(job[1] or '0') + 1))
  local attempt = text(tonumber(job[6]) + 1)
  call('HSET', key, 'state', 'running', 'attempt', attempt, 'began_at', now, 'token', token, 'worker', worker, 'stream',
    first.stream, 'entry', first.entry)
  if job[1] then call('HSET', key, 'ended_at', '', 'done', '0', 'total', '0', 'message', '') end
  append_to(change('ZREM', STATE_WAITING), id)
  append_to(change('ZADD', STATE_RUNNING), id, id)
  count_later('waiting', job[5], -1)
  count_later('running', job[5], 1)
  job[1], job[6] = token, attempt
  return row(id, job)
end

local claimed, ids, fault = {}, {}, ''
local function claim(queue, many)
  if many == 0 or call('SISMEMBER', P .. 'paused', queue) == 1 then return end
  local at = micros()
  for _, job in ipairs(first_of(queue, many)) do
    local is_ok, result = pcall(begin, job, at)
    if is_ok then
      claimed[#claimed + 1] = result
      ids[#ids + 1] = job.id
    else
      fault = message_of(result)
    end
  end
end

local function claim_all()
  make_due_jobs_wait()
  -- An expired worker gets no jobs until it has joined again.
  if call('HEXISTS', P .. 'workers', worker) == 1 then
    for at = FIRST_CAPACITY, #ARGV, 2 do claim(ARGV[at], tonumber(ARGV[at + 1])) end
  end
end

-- A job that cannot be claimed affects neither the outcomes nor the other jobs.
if worker ~= '' then
  local is_ok, result = pcall(claim_all)
  if not is_ok then fault = message_of(result) end
end
fault = change_together() or fault
if many_ended > 0 or #ids > 0 then reply(cjson.encode({ recorded, ids })) end
return { recorded, claimed, fault }
