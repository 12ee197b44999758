-- id. Whether there was one that did not run.
local before = answer_of_before()
if before then return before end
local job = read(ARGV[4])
if not job or job.state == 'running' then return answer('0') end
take(job)
call('DEL', job_key(job.id), P .. 'failures:' .. job.id)
return answer('1')
