-- Arguments: states. Returns the number of jobs in each.
local counts = {}
for at = 4, #ARGV do table.insert(counts, call('ZCARD', P .. 'state:' .. ARGV[at])) end
return counts
