-- The part of the scripts that read the waiting jobs in the order in which they are claimed.

-- Returns the id of the last entry of a stream that was claimed.
local function delivered(stream)
  for _, group in ipairs(call('XINFO', 'GROUPS', stream)) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    if facts['name'] == GROUP then return facts['last-delivered-id'] end
  end
  return '0-0'
end

local function goes_first(a, b)
  if a.rank ~= b.rank then return a.rank < b.rank end
  return a.number < b.number
end

-- Returns the released jobs of a queue that go first, with their ranks.
local function first_released(queue, many) return call('ZRANGE', P .. 'back:' .. queue, 0, many - 1, 'WITHSCORES') end

-- Returns the first jobs of several streams and the released jobs `back`, merged by rank. At least the first `many` are
-- complete.
local function first_waiting(queue, priorities, back, many)
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
      table.insert(first, {
        rank = rank(job), number = tonumber(id), id = id, since = since, stream = stream, entry = entry[1],
      })
    end
  end
  table.sort(first, goes_first)
  return first
end
