-- queue, whether it is paused.
if ARGV[6] == '1' then
  call('SADD', P .. 'paused', ARGV[5])
else
  call('SREM', P .. 'paused', ARGV[5])
  ring()
end
return 1
