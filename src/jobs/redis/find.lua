-- Arguments: ids. Returns the fields and the failures of each job.
local found = {}
for at = 4, #ARGV do
  local job = call('HGETALL', job_key(ARGV[at]))
  if #job > 0 then table.insert(found, { ARGV[at], job, call('LRANGE', P .. 'failures:' .. ARGV[at], 0, -1) }) end
end
return found
