-- Arguments: now, id, token, 1 if its progress has changed, done, total, message, output (after `=`, or empty),
-- outcome, failure message (like the output), due, wait, cause.
local stored = stored_reply()
if stored then return stored end
local now, id, token, ending, message = ARGV[4], ARGV[5], ARGV[6], ARGV[12], ARGV[13]
local job = read(id)
if not job or job.state ~= 'running' or job.token ~= token then return reply('0') end
take(job)
if ARGV[7] == '1' then call('HSET', job_key(id), 'done', ARGV[8], 'total', ARGV[9], 'message', ARGV[10]) end
if ARGV[11] ~= '' then call('HSET', job_key(id), 'output', string.sub(ARGV[11], 2)) end
if message ~= '' then fail(job, now, string.sub(message, 2)) end
if ending == 'released' then
  release(job, now)
elseif ending ~= 'retry' then
  job.cause = ARGV[16]
  finish(job, ending, now)
elseif may_wait_again(job, now) then
  job.wait = ARGV[15]
  wait_until(job, ARGV[14], now)
end
put(job)
if not IS_FINISHED[job.state] then notify() end
return reply('1')
