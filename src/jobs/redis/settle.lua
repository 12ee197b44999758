-- now, id, token, whether its progress is told, done, total, message, output (`=` before it, or nothing at all), end, words
-- (like the output), due, wait, cause.
local before = answer_of_before()
if before then return before end
local now, id, token, ending, words = ARGV[4], ARGV[5], ARGV[6], ARGV[12], ARGV[13]
local job = read(id)
if not job or job.state ~= 'running' or job.token ~= token then return answer('0') end
take(job)
if ARGV[7] == '1' then call('HSET', job_key(id), 'done', ARGV[8], 'total', ARGV[9], 'message', ARGV[10]) end
if ARGV[11] ~= '' then call('HSET', job_key(id), 'output', string.sub(ARGV[11], 2)) end
if words ~= '' then fail(job, now, string.sub(words, 2)) end
if ending == 'released' then
  release(job, now)
elseif ending ~= 'retry' then
  job.cause = ARGV[16]
  finish(job, ending, now)
elseif goes_on(job, now) then
  job.wait = ARGV[15]
  wait_until(job, ARGV[14], now)
end
put(job)
if not IS_FINISHED[job.state] then notify() end
return answer('1')
