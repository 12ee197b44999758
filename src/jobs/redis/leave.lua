-- now, worker.
if dismiss(ARGV[6], release, ARGV[5]) > 0 then ring() end
return 1
