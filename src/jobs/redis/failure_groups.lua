-- Arguments: limit. Returns for each group of dead jobs: its name, the number of jobs, the time when the newest of them
-- died, and its id.
local found = {}
for _, group in ipairs(call('ZREVRANGE', P .. 'groups', 0, tonumber(ARGV[4]) - 1)) do
  local jobs = P .. 'group:' .. group
  local newest = call('ZRANGE', jobs, -1, -1, 'WITHSCORES')
  if newest[1] then table.insert(found, { group, call('ZCARD', jobs), newest[2], unpadded(newest[1]) }) end
end
return found
