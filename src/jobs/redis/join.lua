-- Arguments: worker, and its process as JSON.
call('HSET', P .. 'worker-processes', ARGV[4], ARGV[5])
return call('HSET', P .. 'workers', ARGV[4], '0')
