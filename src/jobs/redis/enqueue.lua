-- Arguments: now, the number of jobs, and eleven values for each. Stores all or none.
local stored = stored_reply()
if stored then return stored end
local now, many, ids = ARGV[4], tonumber(ARGV[5]), {}
for i = 0, many - 1 do ids[i + 1] = enqueue(6 + 11 * i, now) end
notify()
return reply(table.concat(ids, ' '))
