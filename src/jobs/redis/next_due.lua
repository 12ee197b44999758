-- When the first of what is scheduled is due.
return call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')[2]
