-- Arguments: number. Assigns no job an id up to that number.
if tonumber(call('GET', P .. 'last-id') or '0') < tonumber(ARGV[4]) then call('SET', P .. 'last-id', ARGV[4]) end
return 1
