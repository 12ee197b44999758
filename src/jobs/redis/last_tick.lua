-- Arguments: schedule.
return call('HGET', P .. 'ticks', ARGV[4])
