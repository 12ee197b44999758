-- The common part of all scripts. A script is atomic: no client sees half of it, and the append-only file has all of
-- it or nothing.
--
-- A job is a hash. It is listed in the indexes of its state, and moves between them only by take and put:
--   state:<state>           the ids of all jobs in that state, by id
--   state:dead:<cause>      the ids of the dead jobs with that cause
--   ready:<queue>:<prio>    a stream of waiting jobs, each with the entry id <since>-<job>, so that Redis keeps the order
--   back:<queue>            the waiting jobs that arrived too late for that order: by rank
--   late                    a stream in which a job of `back` is pending while it runs
--   due                     the scheduled jobs, by time
--   groups                  the groups of dead jobs with equal errors (<name>\0<error>), by the time when the last one died
--   group:<group>           the dead jobs of a group, by the time of their end
--   ended                   the jobs that prune may delete, by the time of their end
--   uniques                 the unique keys in use, with the id of the job
--   trace:<trace>           the ids of the jobs of a trace, in the order of their ids: at most MOST_OF_TRACE
-- A running job is pending in its stream, and its entry there is deleted when it stops running. Numbers stay strings
-- where possible: Lua prints large ones inexactly.

local P, CALLER, CALL = ARGV[1], ARGV[2], ARGV[3]
local GROUP, LATE = 'aside', ARGV[1] .. 'late'
local MOST_FAILURES, MOST_INTERRUPTIONS, MOST_OF_TRACE, PRIORITY_STEP = 25, 10, 500, 60000
local CLOCK_SLACK, LATEST_TICK = 15000, 86400000
local call = redis.call

local function text(number) return string.format('%.0f', number) end

-- Redis sorts members of equal score by their bytes.
local function padded(id) return string.rep('0', 16 - #id) .. id end
local function unpadded(member) return (string.gsub(member, '^0+', '')) end

-- Returns the server's clock in microseconds. The times of jobs come from the caller.
local function micros()
  local time = call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- Returns the stored reply to this call, if the first reply was lost, so that a repetition has no effect. Each caller
-- makes one call at a time. A call that arrives after its successor was delayed, and no caller waits for it.
local function stored_reply()
  local kept = call('GET', P .. 'call:' .. CALLER)
  if not kept then return nil end
  local number, value = string.match(kept, '^(%d+) (.*)$')
  if tonumber(number) > tonumber(CALL) then error('the call comes too late') end
  return number == CALL and value or nil
end

local function reply(value)
  call('SET', P .. 'call:' .. CALLER, CALL .. ' ' .. value, 'EX', 3600)
  return value
end

local function notify() call('XADD', P .. 'news', 'MAXLEN', '~', '100', '*', 'n', '1') end

local function job_key(id) return P .. 'job:' .. id end

local FIELDS = {
  'state', 'queue', 'priority', 'since', 'name', 'unique', 'attempt', 'interruptions', 'stream', 'entry', 'token',
  'worker', 'cancelling', 'due_at', 'ended_at', 'wait', 'cause', 'group',
}

local function read(id)
  local values = call('HMGET', job_key(id), unpack(FIELDS))
  if not values[1] then return nil end
  local job = { id = id }
  for i, field in ipairs(FIELDS) do job[field] = values[i] end
  return job
end

local function save(job)
  call('HSET', job_key(job.id), 'state', job.state, 'since', job.since, 'attempt', job.attempt, 'interruptions',
    job.interruptions, 'worker', job.worker, 'cancelling', job.cancelling, 'due_at', job.due_at, 'ended_at',
    job.ended_at, 'wait', job.wait, 'cause', job.cause or 'failed')
end

-- The key of the dead jobs with the same cause.
local function dead_of(job) return P .. 'state:dead:' .. (job.cause or 'failed') end

local function group_of(job, error) return job.name .. '\0' .. error end

-- Adds a dead job to its group.
local function enter_group(job)
  call('HSET', job_key(job.id), 'group', job.group)
  call('ZADD', P .. 'group:' .. job.group, job.ended_at, padded(job.id))
  call('ZADD', P .. 'groups', 'GT', job.ended_at, job.group)
end

-- Removes a dead job from its group. One that an earlier version has stored is in none.
local function leave_group(job)
  if not job.group then return end
  local jobs = P .. 'group:' .. job.group
  call('ZREM', jobs, padded(job.id))
  local newest = call('ZRANGE', jobs, -1, -1, 'WITHSCORES')
  if newest[1] then
    call('ZADD', P .. 'groups', newest[2], job.group)
  else
    call('ZREM', P .. 'groups', job.group)
  end
end

local function unique_field(job) return job.name .. '\0' .. job.unique end

local function count(what, queue, by)
  if call('HINCRBY', P .. what, queue, by) == 0 then call('HDEL', P .. what, queue) end
end

local function ready_stream(queue, priority) return P .. 'ready:' .. queue .. ':' .. priority end
local function entry_of(job) return job.since .. '-' .. job.id end
local function rank(job) return tonumber(job.since) - tonumber(job.priority) * PRIORITY_STEP end

local function open_stream(job)
  if call('SADD', P .. 'priorities:' .. job.queue, job.priority) == 1 then
    call('SADD', P .. 'queues', job.queue)
    call('XGROUP', 'CREATE', ready_stream(job.queue, job.priority), GROUP, '0', 'MKSTREAM')
  end
end

-- Appends a job to its stream. Returns false if its entry belongs before the last one, as that of a released or a due
-- job may.
local function append(job)
  if tonumber(job.since) < 0 then return false end
  local added = redis.pcall('XADD', ready_stream(job.queue, job.priority), entry_of(job), 'job', job.id)
  if type(added) ~= 'table' then return true end
  if string.find(added.err, 'equal or smaller', 1, true) then return false end
  error(added.err)
end

local function add_to_queue(job)
  open_stream(job)
  if not append(job) then call('ZADD', P .. 'back:' .. job.queue, text(rank(job)), padded(job.id)) end
end

local function remove_from_queue(job)
  local is_ready = tonumber(job.since) >= 0
    and call('XDEL', ready_stream(job.queue, job.priority), entry_of(job)) == 1
  if not is_ready then call('ZREM', P .. 'back:' .. job.queue, padded(job.id)) end
end

local function forget_entry(stream, entry)
  call('XACK', stream, GROUP, entry)
  call('XDEL', stream, entry)
end

local IS_FINISHED = { done = true, dead = true, cancelled = true }

-- Removes a job from all indexes.
local function take(job)
  call('ZREM', P .. 'state:' .. job.state, job.id)
  if job.unique and not IS_FINISHED[job.state] then call('HDEL', P .. 'uniques', unique_field(job)) end
  if job.state == 'waiting' then
    count('waiting', job.queue, -1)
    remove_from_queue(job)
  elseif job.state == 'running' then
    count('running', job.queue, -1)
    forget_entry(job.stream, job.entry)
  elseif job.state == 'scheduled' then
    call('ZREM', P .. 'due', padded(job.id))
  elseif job.state == 'dead' then
    call('ZREM', dead_of(job), job.id)
    leave_group(job)
  else
    call('ZREM', P .. 'ended', padded(job.id))
  end
end

-- Adds a job to the indexes of its state. A running job is added by `exchange.lua` itself.
local function put(job)
  save(job)
  call('ZADD', P .. 'state:' .. job.state, job.id, job.id)
  if job.unique and not IS_FINISHED[job.state] then call('HSET', P .. 'uniques', unique_field(job), job.id) end
  if job.state == 'waiting' then
    count('waiting', job.queue, 1)
    add_to_queue(job)
  elseif job.state == 'scheduled' then
    call('ZADD', P .. 'due', job.due_at, padded(job.id))
  elseif job.state == 'dead' then
    call('ZADD', dead_of(job), job.id, job.id)
    if job.group then enter_group(job) end
  else
    call('ZADD', P .. 'ended', job.ended_at, padded(job.id))
  end
end

-- Stores a failure: an object, to which the attempt and the times are added.
local function fail(job, now, failure)
  local failures, began_at = P .. 'failures:' .. job.id, call('HGET', job_key(job.id), 'began_at') or 'null'
  local fields = '{"attempt":' .. job.attempt .. ',"at":' .. now .. ',"began_at":' .. began_at .. ','
  call('RPUSH', failures, fields .. string.sub(failure, 2))
  call('LTRIM', failures, -MOST_FAILURES, -1)
end

local function finish(job, state, now)
  job.state, job.ended_at, job.worker, job.cancelling = state, now, '', '0'
end

-- Makes the job wait from now on, or schedules it for a later time.
local function wait_until(job, due, now)
  local is_later = tonumber(due) > tonumber(now)
  job.state, job.due_at, job.since = is_later and 'scheduled' or 'waiting', due, is_later and due or now
end

-- Returns true if the job may wait again. Otherwise it is cancelled, which its worker may not have received.
local function may_wait_again(job, now)
  if job.cancelling == '1' then
    finish(job, 'cancelled', now)
    return false
  end
  job.worker = ''
  return true
end

-- Returns the job to its old position in the queue, as if the attempt had not started.
local function release(job, now)
  job.attempt = text(tonumber(job.attempt) - 1)
  if may_wait_again(job, now) then job.state = 'waiting' end
end

-- Releases the job after a backoff.
local function release_after(wait, job, now)
  job.attempt = text(tonumber(job.attempt) - 1)
  if may_wait_again(job, now) then
    job.wait = text(wait)
    wait_until(job, text(tonumber(now) + wait), now)
  end
end

local INTERRUPTED = 'the process ended during the attempt'
local TOO_OFTEN = 'the process ended ' .. MOST_INTERRUPTIONS .. ' times while it ran this job, which may be the cause: find '
  .. 'out why the process ended (was its memory exhausted?), then retry the job'

-- Counts an interruption, and releases the job unless it was interrupted too often.
local function interrupt(job, now)
  job.interruptions = text(tonumber(job.interruptions) + 1)
  local times = tonumber(job.interruptions)
  local message = times < MOST_INTERRUPTIONS and INTERRUPTED or TOO_OFTEN
  fail(job, now, '{"kind":"abandoned","message":"' .. message .. '"}')
  if times <= 3 then return release(job, now) end
  if times < MOST_INTERRUPTIONS then return release_after(1000 * 2 ^ math.min(times - 4, 6), job, now) end
  job.attempt, job.cause = text(tonumber(job.attempt) - 1), 'abandoned'
  job.group = group_of(job, (string.gsub(TOO_OFTEN, '%d+', '#')))
  finish(job, 'dead', now)
end

local function trace_key(trace) return P .. 'trace:' .. trace end

local function add_to_trace(id, trace)
  if call('RPUSH', trace_key(trace), id) > MOST_OF_TRACE then call('RPOP', trace_key(trace)) end
end

-- Deletes a job that was taken from its indexes.
local function delete(id)
  local trace = call('HGET', job_key(id), 'trace')
  if trace then call('LREM', trace_key(trace), 1, id) end
  call('DEL', job_key(id), P .. 'failures:' .. id)
end

-- Adds a field with an optional value: `=` and the value, or an empty string.
local function set_optional(fields, name, value)
  if value == '' then return end
  fields[#fields + 1] = name
  fields[#fields + 1] = string.sub(value, 2)
end

-- Stores a new job, whose eleven values start at that argument. Returns `<id> 1`, or the id of the job with its unique
-- key and 0.
local function enqueue(at, now)
  local job = {
    name = ARGV[at], queue = ARGV[at + 3], priority = ARGV[at + 4], attempt = '0', interruptions = '0', worker = '',
    cancelling = '0', ended_at = '', wait = ARGV[at + 8],
  }
  local unique, origin, trace, parent = ARGV[at + 5], ARGV[at + 6], ARGV[at + 9], ARGV[at + 10]
  if unique ~= '' then
    job.unique = string.sub(unique, 2)
    local owner = call('HGET', P .. 'uniques', unique_field(job))
    if owner then return owner .. ' 0' end
  end
  job.id = text(call('INCR', P .. 'last-id'))
  local fields = {
    'name', job.name, 'label', ARGV[at + 1], 'payload', ARGV[at + 2], 'queue', job.queue, 'priority', job.priority,
    'enqueued_at', now,
  }
  set_optional(fields, 'unique', unique)
  set_optional(fields, 'origin', origin)
  set_optional(fields, 'trace', trace)
  set_optional(fields, 'parent', parent)
  call('HSET', job_key(job.id), unpack(fields))
  if trace ~= '' then add_to_trace(job.id, string.sub(trace, 2)) end
  wait_until(job, ARGV[at + 7], now)
  put(job)
  return job.id .. ' 1'
end

-- Returns every stream that may have pending entries.
local function streams()
  local all = {}
  for _, queue in ipairs(call('SMEMBERS', P .. 'queues')) do
    for _, priority in ipairs(call('SMEMBERS', P .. 'priorities:' .. queue)) do
      table.insert(all, ready_stream(queue, priority))
    end
  end
  if call('EXISTS', LATE) == 1 then table.insert(all, LATE) end
  return all
end

-- Takes a job from the worker for which its entry is pending. Returns false if the entry has no running job.
local function take_back(stream, entry, how, now)
  local found = call('XRANGE', stream, entry, entry)[1]
  local job = found and read(found[2][2])
  if not job or job.state ~= 'running' or job.stream ~= stream or job.entry ~= entry then
    forget_entry(stream, entry)
    return false
  end
  take(job)
  how(job, now)
  put(job)
  return true
end

-- Removes a worker, and takes all its jobs. Returns their number.
local function remove_worker(worker, how, now)
  local taken = 0
  for _, stream in ipairs(streams()) do
    repeat
      local pending = call('XPENDING', stream, GROUP, '-', '+', 1000, worker)
      for _, entry in ipairs(pending) do
        if take_back(stream, entry[1], how, now) then taken = taken + 1 end
      end
    until #pending == 0
    call('XGROUP', 'DELCONSUMER', stream, GROUP, worker)
  end
  for _, of in ipairs({ 'workers', 'worker-processes', 'worker-heartbeats' }) do call('HDEL', P .. of, worker) end
  return taken
end
