-- Arguments: now, id. Returns 1 if the job waits now.
local stored = stored_reply()
if stored then return stored end
local now, id = ARGV[4], ARGV[5]
local job = read(id)
if not job or (job.state ~= 'scheduled' and job.state ~= 'dead' and job.state ~= 'cancelled') then return reply('0') end
local owner = job.unique and call('HGET', P .. 'uniques', unique_field(job))
if owner and owner ~= id then return reply('0') end
take(job)
if IS_FINISHED[job.state] then job.attempt, job.interruptions = '0', '0' end
job.ended_at, job.wait = '', ''
wait_until(job, now, now)
put(job)
notify()
return reply('1')
