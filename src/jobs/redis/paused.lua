-- Returns the paused queues.
return call('SMEMBERS', P .. 'paused')
