-- Arguments: queue, 1 to pause it or 0 to resume it.
if ARGV[5] == '1' then
  call('SADD', P .. 'paused', ARGV[4])
else
  call('SREM', P .. 'paused', ARGV[4])
  notify()
end
return 1
