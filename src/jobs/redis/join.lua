-- worker.
call('ZADD', P .. 'workers', text(micros() / 1000), ARGV[5])
return 1
