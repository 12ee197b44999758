-- Arguments: limit, and the queues, or none for all. Returns the jobs as `shown`.
local many, queues, first = tonumber(ARGV[4]), { unpack(ARGV, 5) }, {}
if many == 0 then return {} end
if #queues == 0 then queues = call('HKEYS', P .. 'waiting') end
for _, queue in ipairs(queues) do
  local priorities = call('SMEMBERS', P .. 'priorities:' .. queue)
  for i, job in ipairs(first_waiting(queue, priorities, first_released(queue, many), many)) do
    if i > many then break end
    table.insert(first, job)
  end
end
table.sort(first, goes_first)
local ids = {}
for i = 1, math.min(many, #first) do ids[i] = first[i].id end
return shown(ids)
