-- Returns the numbers of waiting and of running jobs by queue, and the paused queues.
return { call('HGETALL', P .. 'waiting'), call('HGETALL', P .. 'running'), call('SMEMBERS', P .. 'paused') }
