-- How many beats there were of each worker.
return call('HGETALL', P .. 'workers')
