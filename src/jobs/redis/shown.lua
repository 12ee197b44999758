-- The part of the scripts that list jobs. An output may have a megabyte, and is left out: `has_output` says that there is
-- one.
local SHOWN = {
  'state', 'queue', 'priority', 'name', 'label', 'payload', 'unique', 'origin', 'trace', 'parent', 'attempt', 'interruptions', 'cancelling',
  'enqueued_at', 'due_at', 'began_at', 'ended_at', 'done', 'total', 'message',
}

local function fields_of(id)
  local fields = {}
  for i, value in ipairs(call('HMGET', job_key(id), unpack(SHOWN))) do
    if value then
      table.insert(fields, SHOWN[i])
      table.insert(fields, value)
    end
  end
  if call('HEXISTS', job_key(id), 'output') == 1 then
    table.insert(fields, 'has_output')
    table.insert(fields, '1')
  end
  return fields
end

-- Returns the failures of a job without their backtraces, which are on a line of their own.
local function failures_of(id)
  local failures = call('LRANGE', P .. 'failures:' .. id, 0, -1)
  for i, failure in ipairs(failures) do
    if string.sub(failure, 1, 1) == '{' then failures[i] = string.match(failure, '^[^\n]*') end
  end
  return failures
end

-- Returns the id, the fields and the failures of each job.
local function shown(ids)
  local found = {}
  for _, id in ipairs(ids) do
    table.insert(found, { id, fields_of(id), failures_of(id) })
  end
  return found
end
