-- Arguments: worker.
return call('HSET', P .. 'workers', ARGV[4], '0')
