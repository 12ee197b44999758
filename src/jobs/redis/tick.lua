-- Arguments: now, schedule, due, the number of jobs (0 or 1), and its values.
local stored = stored_reply()
if stored then return stored end
local now, schedule, due = ARGV[4], ARGV[5], ARGV[6]
local last = call('HGET', P .. 'ticks', schedule)
if last and tonumber(due) <= tonumber(last) then return reply('0') end
call('HSET', P .. 'ticks', schedule, due)
if ARGV[7] == '1' then
  enqueue(8, now)
  notify()
end
return reply('1')
