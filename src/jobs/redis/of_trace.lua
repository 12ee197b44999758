-- Arguments: trace, limit. Returns the jobs as `shown`.
return shown(call('LRANGE', trace_key(ARGV[4]), 0, tonumber(ARGV[5]) - 1))
