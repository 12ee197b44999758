-- Arguments: worker, now, and for each job: id, token, 1 if its progress has changed, done, total, message. Returns 1 if
-- the worker is registered, the jobs to be cancelled, and the jobs that are no longer the worker's.
local worker = ARGV[4]
if call('HEXISTS', P .. 'workers', worker) == 0 then return { 0, {}, {} } end
call('HINCRBY', P .. 'workers', worker, 1)
call('HSET', P .. 'worker-heartbeats', worker, ARGV[5])
local cancel, lost = {}, {}
for at = 6, #ARGV, 6 do
  local id, key = ARGV[at], job_key(ARGV[at])
  local job = call('HMGET', key, 'state', 'token', 'cancelling', 'stream', 'entry')
  if job[1] ~= 'running' or job[2] ~= ARGV[at + 1] then
    table.insert(lost, id)
  else
    call('XCLAIM', job[4], GROUP, worker, 0, job[5], 'JUSTID')
    if job[3] == '1' then table.insert(cancel, id) end
    if ARGV[at + 2] == '1' then
      call('HSET', key, 'done', ARGV[at + 3], 'total', ARGV[at + 4], 'message', ARGV[at + 5])
    end
  end
end
return { 1, cancel, lost }
