-- What all scripts begin with. A script is one step: nobody sees half of it, and all of it is in the append-only file or
-- nothing.
--
-- A job is a hash. It lies in the drawers of its state, and moves between them only by take and put:
--   state:<state>           the ids of all in that state, by id
--   state:dead:<cause>      those of the dead that it made so
--   ready:<queue>:<prio>    a stream of those that wait, each under the id <since>-<job>, so that Redis itself keeps it in order
--   back:<queue>            those that wait and came too late for that order: by rank
--   late                    a stream in which a job of `back` is pending while it runs
--   due                     what is scheduled, by time
--   ended                   what trim may take, by the time of its end
--   uniques                 the unique keys in use, with the id
-- What runs is pending in its stream, and its entry there goes when it stops to run. Numbers stay strings where they
-- can: Lua prints large ones inexactly.

local P, CALLER, CALL = ARGV[1], ARGV[2], ARGV[3]
local GROUP, LATE = 'aside', ARGV[1] .. 'late'
local MOST_FAILURES, MOST_INTERRUPTIONS, PRIORITY_STEP = 25, 10, 60000
local CLOCK_SLACK, LATEST_TICK = 15000, 86400000
local call = redis.call

local function text(number) return string.format('%.0f', number) end

-- Of equal scores Redis sorts by the bytes.
local function padded(id) return string.rep('0', 16 - #id) .. id end
local function unpadded(member) return (string.gsub(member, '^0+', '')) end

-- The server's clock, in microseconds. What a job knows of times comes from outside.
local function micros()
  local time = call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- What this very call came to when its answer got lost on the way, so that a second try does nothing twice. Each caller makes
-- one call at a time. One of before that comes after the next was made was held up, and nobody waits for it.
local function answer_of_before()
  local kept = call('GET', P .. 'call:' .. CALLER)
  if not kept then return nil end
  local number, words = string.match(kept, '^(%d+) (.*)$')
  if tonumber(number) > tonumber(CALL) then error('the call comes too late') end
  return number == CALL and words or nil
end

local function answer(words)
  call('SET', P .. 'call:' .. CALLER, CALL .. ' ' .. words, 'EX', 3600)
  return words
end

local function notify() call('XADD', P .. 'news', 'MAXLEN', '~', '100', '*', 'n', '1') end

local function job_key(id) return P .. 'job:' .. id end

local FIELDS = {
  'state', 'queue', 'priority', 'since', 'name', 'unique', 'attempt', 'interruptions', 'stream', 'entry', 'token',
  'worker', 'cancelling', 'due_at', 'ended_at', 'wait', 'cause',
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

-- Whether it could be put at the end of its stream: what came back or was scheduled may belong before it.
local function append(job)
  if tonumber(job.since) < 0 then return false end
  local added = redis.pcall('XADD', ready_stream(job.queue, job.priority), entry_of(job), 'job', job.id)
  if type(added) ~= 'table' then return true end
  if string.find(added.err, 'equal or smaller', 1, true) then return false end
  error(added.err)
end

local function enter_line(job)
  open_stream(job)
  if not append(job) then call('ZADD', P .. 'back:' .. job.queue, text(rank(job)), padded(job.id)) end
end

local function leave_line(job)
  local is_ready = tonumber(job.since) >= 0
    and call('XDEL', ready_stream(job.queue, job.priority), entry_of(job)) == 1
  if not is_ready then call('ZREM', P .. 'back:' .. job.queue, padded(job.id)) end
end

local function forget_entry(stream, entry)
  call('XACK', stream, GROUP, entry)
  call('XDEL', stream, entry)
end

local IS_FINISHED = { done = true, dead = true, cancelled = true }

-- Out of every drawer.
local function take(job)
  call('ZREM', P .. 'state:' .. job.state, job.id)
  if job.unique and not IS_FINISHED[job.state] then call('HDEL', P .. 'uniques', unique_field(job)) end
  if job.state == 'waiting' then
    count('waiting', job.queue, -1)
    leave_line(job)
  elseif job.state == 'running' then
    count('running', job.queue, -1)
    forget_entry(job.stream, job.entry)
  elseif job.state == 'scheduled' then
    call('ZREM', P .. 'due', padded(job.id))
  elseif job.state == 'dead' then
    call('ZREM', dead_of(job), job.id)
  else
    call('ZREM', P .. 'ended', padded(job.id))
  end
end

-- Into those of its state; a running one is put by claim itself.
local function put(job)
  save(job)
  call('ZADD', P .. 'state:' .. job.state, job.id, job.id)
  if job.unique and not IS_FINISHED[job.state] then call('HSET', P .. 'uniques', unique_field(job), job.id) end
  if job.state == 'waiting' then
    count('waiting', job.queue, 1)
    enter_line(job)
  elseif job.state == 'scheduled' then
    call('ZADD', P .. 'due', job.due_at, padded(job.id))
  elseif job.state == 'dead' then
    call('ZADD', dead_of(job), job.id, job.id)
  else
    call('ZADD', P .. 'ended', job.ended_at, padded(job.id))
  end
end

local function fail(job, now, words)
  local failures = P .. 'failures:' .. job.id
  call('RPUSH', failures, job.attempt .. ' ' .. now .. ' ' .. words)
  call('LTRIM', failures, -MOST_FAILURES, -1)
end

local function finish(job, state, now)
  job.state, job.ended_at, job.worker, job.cancelling = state, now, '', '0'
end

-- Waits from now on, or is scheduled when its time is still to come.
local function wait_until(job, due, now)
  local is_later = tonumber(due) > tonumber(now)
  job.state, job.due_at, job.since = is_later and 'scheduled' or 'waiting', due, is_later and due or now
end

-- Is tried again, unless somebody wants it cancelled, which its worker may not have heard of. Whether it is.
local function goes_on(job, now)
  if job.cancelling == '1' then
    finish(job, 'cancelled', now)
    return false
  end
  job.worker = ''
  return true
end

-- Back to where it was in the line, as if the try had not begun.
local function release(job, now)
  job.attempt = text(tonumber(job.attempt) - 1)
  if goes_on(job, now) then job.state = 'waiting' end
end

-- The same after a wait.
local function release_for(wait, job, now)
  job.attempt = text(tonumber(job.attempt) - 1)
  if goes_on(job, now) then
    job.wait = text(wait)
    wait_until(job, text(tonumber(now) + wait), now)
  end
end

local TOO_OFTEN = 'the process that ran it ended ' .. MOST_INTERRUPTIONS .. ' times before it did, and it may well be '
  .. 'what ends it; find out how (is memory short?), then retry it'

-- The same, unless its process has ended under it too often.
local function interrupt(job, now)
  job.interruptions = text(tonumber(job.interruptions) + 1)
  local times = tonumber(job.interruptions)
  if times <= 3 then return release(job, now) end
  if times < MOST_INTERRUPTIONS then return release_for(1000 * 2 ^ math.min(times - 4, 6), job, now) end
  fail(job, now, TOO_OFTEN)
  job.attempt, job.cause = text(tonumber(job.attempt) - 1), 'abandoned'
  finish(job, 'dead', now)
end

-- Keeps a new job, whose nine values begin at that argument: `<id> 1`, or that of the one with its unique key and 0.
local function enqueue(at, now)
  local job = {
    name = ARGV[at], queue = ARGV[at + 3], priority = ARGV[at + 4], attempt = '0', interruptions = '0', worker = '',
    cancelling = '0', ended_at = '', wait = ARGV[at + 8],
  }
  local unique, origin = ARGV[at + 5], ARGV[at + 6]
  if unique ~= '' then
    job.unique = string.sub(unique, 2)
    local owner = call('HGET', P .. 'uniques', unique_field(job))
    if owner then return owner .. ' 0' end
  end
  job.id = text(call('INCR', P .. 'last-id'))
  call('HSET', job_key(job.id), 'name', job.name, 'label', ARGV[at + 1], 'payload', ARGV[at + 2], 'queue', job.queue,
    'priority', job.priority, 'enqueued_at', now)
  if job.unique then call('HSET', job_key(job.id), 'unique', job.unique) end
  if origin ~= '' then call('HSET', job_key(job.id), 'origin', string.sub(origin, 2)) end
  wait_until(job, ARGV[at + 7], now)
  put(job)
  return job.id .. ' 1'
end

-- Every stream that something may be pending in.
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

-- Takes a job from the worker in whose name its entry is pending. Whether it was one.
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

-- Takes back all that a worker holds, and forgets it. How many jobs.
local function dismiss(worker, how, now)
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
  call('HDEL', P .. 'workers', worker)
  return taken
end
