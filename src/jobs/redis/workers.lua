-- Arguments: states. Returns the last id, the number of jobs in each state, and the number of heartbeats of each
-- worker.
local counts = {}
for at = 4, #ARGV do table.insert(counts, call('ZCARD', P .. 'state:' .. ARGV[at])) end
return { call('GET', P .. 'last-id') or '0', counts, call('HGETALL', P .. 'workers') }
