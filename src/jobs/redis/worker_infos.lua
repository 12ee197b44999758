-- Returns the heartbeats by worker, the time of the last one, the processes, and the number of running jobs by worker.
local running = {}
for _, id in ipairs(call('ZRANGE', P .. 'state:running', 0, -1)) do
  local worker = call('HGET', job_key(id), 'worker')
  if worker then running[worker] = (running[worker] or 0) + 1 end
end
local counts = {}
for worker, count in pairs(running) do
  table.insert(counts, worker)
  table.insert(counts, count)
end
local function all(of) return call('HGETALL', P .. of) end
return { all('workers'), all('worker-heartbeats'), all('worker-processes'), counts }
