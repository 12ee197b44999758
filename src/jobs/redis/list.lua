-- state, the id before which to begin (`(` before it, or `+inf`), how many. Each one's fields, and its failures.
local found = {}
for _, id in ipairs(call('ZREVRANGEBYSCORE', P .. 'state:' .. ARGV[4], ARGV[5], '-inf', 'LIMIT', 0, ARGV[6])) do
  table.insert(found, { id, call('HGETALL', job_key(id)), call('LRANGE', P .. 'failures:' .. id, 0, -1) })
end
return found
