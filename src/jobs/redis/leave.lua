-- Arguments: now, worker.
if remove_worker(ARGV[5], release, ARGV[4]) > 0 then notify() end
return 1
