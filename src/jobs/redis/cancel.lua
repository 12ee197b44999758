-- Arguments: now, id. Returns the state of the job after the call.
local now, id = ARGV[4], ARGV[5]
local job = read(id)
if not job then return '' end
if job.state == 'running' then
  call('HSET', job_key(id), 'cancelling', '1')
  notify()
elseif not IS_FINISHED[job.state] then
  take(job)
  finish(job, 'cancelled', now)
  put(job)
  notify()
end
return job.state
