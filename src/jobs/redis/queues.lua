-- Arguments: the number of released jobs that are considered. Returns the numbers of waiting and of running jobs by queue,
-- the paused queues, and by queue the time from which its oldest waiting job waits.
local oldest = {}
for _, queue in ipairs(call('HKEYS', P .. 'waiting')) do
  local since
  local priorities = call('SMEMBERS', P .. 'priorities:' .. queue)
  for _, job in ipairs(first_waiting(queue, priorities, first_released(queue, tonumber(ARGV[4])), 1)) do
    local of_job = tonumber(job.since or call('HGET', job_key(job.id), 'since'))
    if not since or of_job < since then since = of_job end
  end
  if since then
    table.insert(oldest, queue)
    table.insert(oldest, text(since))
  end
end
return { call('HGETALL', P .. 'waiting'), call('HGETALL', P .. 'running'), call('SMEMBERS', P .. 'paused'), oldest }
