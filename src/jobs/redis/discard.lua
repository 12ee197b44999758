-- Arguments: id. Returns 1 if the job existed and did not run.
local stored = stored_reply()
if stored then return stored end
local job = read(ARGV[4])
if not job or job.state == 'running' then return reply('0') end
take(job)
delete(job.id)
return reply('1')
