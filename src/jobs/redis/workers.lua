-- states. The last number of a job, how many there are in each state, and how many beats there were of each worker.
local counts = {}
for at = 4, #ARGV do table.insert(counts, call('ZCARD', P .. 'state:' .. ARGV[at])) end
return { call('GET', P .. 'last-id') or '0', counts, call('HGETALL', P .. 'workers') }
