-- Arguments: state, the id before which to start (after `(`, or `+inf`), limit. Returns the jobs as `shown`.
return shown(call('ZREVRANGEBYSCORE', P .. 'state:' .. ARGV[4], ARGV[5], '-inf', 'LIMIT', 0, ARGV[6]))
