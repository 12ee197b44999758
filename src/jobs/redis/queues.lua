-- What waits and what runs, by queue, and the queues that are paused.
return { call('HGETALL', P .. 'waiting'), call('HGETALL', P .. 'running'), call('SMEMBERS', P .. 'paused') }
