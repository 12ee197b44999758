-- Arguments: the time before which finished jobs are deleted, the number that may stay, and the number to delete at
-- once. Returns the number of deleted jobs.
local ended, most = P .. 'ended', tonumber(ARGV[6])
local gone = call('ZRANGEBYSCORE', ended, '-inf', '(' .. ARGV[4], 'LIMIT', 0, most)
if #gone == 0 then
  local surplus = math.min(call('ZCARD', ended) - tonumber(ARGV[5]), most)
  if surplus > 0 then gone = call('ZRANGE', ended, 0, surplus - 1) end
end
for _, member in ipairs(gone) do
  local job = read(unpadded(member))
  take(job)
  delete(job.id)
end
return #gone
