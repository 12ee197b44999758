-- number. Gives no job a number up to that one.
if tonumber(call('GET', P .. 'last-id') or '0') < tonumber(ARGV[4]) then call('SET', P .. 'last-id', ARGV[4]) end
return 1
