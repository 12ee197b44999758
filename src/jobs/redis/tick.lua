-- now, schedule, due, how many jobs (none or one), and its values.
local before = answer_of_before()
if before then return before end
local now, schedule, due = ARGV[4], ARGV[5], ARGV[6]
local last = call('HGET', P .. 'ticks', schedule)
if last and tonumber(due) <= tonumber(last) then return answer('0') end
call('HSET', P .. 'ticks', schedule, due)
if ARGV[7] == '1' then
  enqueue(8, now)
  notify()
end
return answer('1')
