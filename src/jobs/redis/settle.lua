-- now, id, token, end, words (`=` before them, or nothing at all), due, wait, cause.
local before = answer_of_before()
if before then return before end
local now, id, token, ending, words = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local job = read(id)
if not job or job.state ~= 'running' or job.token ~= token then return answer('0') end
take(job)
if words ~= '' then fail(job, now, string.sub(words, 2)) end
if ending == 'released' then
  release(job, now)
elseif ending ~= 'retry' then
  job.cause = ARGV[11]
  finish(job, ending, now)
elseif goes_on(job, now) then
  job.wait = ARGV[10]
  wait_until(job, ARGV[9], now)
end
put(job)
if not IS_FINISHED[job.state] then ring() end
return answer('1')
