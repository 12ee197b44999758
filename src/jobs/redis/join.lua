-- worker.
return call('HSET', P .. 'workers', ARGV[5], '0')
