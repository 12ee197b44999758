-- queue, whether it is paused.
if ARGV[5] == '1' then
  call('SADD', P .. 'paused', ARGV[4])
else
  call('SREM', P .. 'paused', ARGV[4])
  notify()
end
return 1
