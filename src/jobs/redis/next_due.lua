-- Returns the time when the next scheduled job is due.
return call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')[2]
