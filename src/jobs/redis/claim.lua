-- Arguments: now, worker, and for each capacity: queue, number. Returns for each claimed job its values, in one list.
local now, worker = ARGV[4], ARGV[5]

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
if stored then
  local ids = {}
  for id in string.gmatch(stored, '%d+') do table.insert(ids, id) end
  return claimed_values(ids)
end

-- Makes due jobs of all queues wait: jobs of full or paused queues would otherwise be due again at each claim. The
-- next claim continues, so that the server is not blocked.
for _, member in ipairs(call('ZRANGEBYSCORE', P .. 'due', '-inf', now, 'LIMIT', 0, 2000)) do
  local job = read(unpadded(member))
  take(job)
  job.state = 'waiting'
  put(job)
end

-- An expired worker gets no jobs until it has joined again.
if call('HEXISTS', P .. 'workers', worker) == 0 then return {} end

local function delivered(stream)
  for _, group in ipairs(call('XINFO', 'GROUPS', stream)) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    if facts['name'] == GROUP then return facts['last-delivered-id'] end
  end
  return '0-0'
end

-- Returns the first entries of each stream and of the set of released jobs, merged by rank.
local function first_of(queue, many)
  local first, back = {}, call('ZRANGE', P .. 'back:' .. queue, 0, many - 1, 'WITHSCORES')
  for i = 1, #back, 2 do
    local id = unpadded(back[i])
    table.insert(first, { rank = tonumber(back[i + 1]), id = tonumber(id), job = id })
  end
  for _, priority in ipairs(call('SMEMBERS', P .. 'priorities:' .. queue)) do
    local stream = ready_stream(queue, priority)
    for _, entry in ipairs(call('XRANGE', stream, '(' .. delivered(stream), '+', 'COUNT', many)) do
      local since, id = string.match(entry[1], '^(%d+)-(%d+)$')
      local job = { since = since, priority = priority }
      table.insert(first, { rank = rank(job), id = tonumber(id), job = id, stream = stream, entry = entry[1] })
    end
  end
  table.sort(first, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    return a.id < b.id
  end)
  return first
end

-- Makes the first `many` entries of a stream pending.
local function read_group(stream, many)
  return call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', many, 'STREAMS', stream, '>')[1][2]
end

local function pend_late(queue, first)
  call('ZREM', P .. 'back:' .. queue, padded(first.job))
  if call('EXISTS', LATE) == 0 then call('XGROUP', 'CREATE', LATE, GROUP, '0', 'MKSTREAM') end
  call('XADD', LATE, '*', 'job', first.job)
  first.stream, first.entry = LATE, read_group(LATE, 1)[1][1]
end

local function begin(queue, first)
  local key = job_key(first.job)
  local job = call('HMGET', key, 'attempt', 'token')
  -- Unique among all claims, even if the server has lost its last second: so the token is not a counter.
  local token = math.max(micros(), tonumber(job[2] or '0') + 1)
  call('HSET', key, 'state', 'running', 'attempt', text(tonumber(job[1]) + 1), 'began_at', now, 'ended_at', '',
    'token', text(token), 'worker', worker, 'stream', first.stream, 'entry', first.entry, 'done', '0', 'total', '0',
    'message', '')
  call('ZREM', P .. 'state:waiting', first.job)
  call('ZADD', P .. 'state:running', first.job, first.job)
end

local ids = {}
for at = 6, #ARGV, 2 do
  local queue, many = ARGV[at], tonumber(ARGV[at + 1])
  if many > 0 and call('SISMEMBER', P .. 'paused', queue) == 0 then
    local first, of_stream = first_of(queue, many), {}
    many = math.min(many, #first)
    for i = 1, many do
      local stream = first[i].stream
      if stream then of_stream[stream] = (of_stream[stream] or 0) + 1 else pend_late(queue, first[i]) end
    end
    for stream, some in pairs(of_stream) do read_group(stream, some) end
    for i = 1, many do
      begin(queue, first[i])
      table.insert(ids, first[i].job)
    end
    if many > 0 then
      count('waiting', queue, -many)
      count('running', queue, many)
    end
  end
end
if #ids > 0 then reply(table.concat(ids, ' ')) end
return claimed_values(ids)
