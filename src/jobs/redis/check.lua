-- Checks that a job could be stored, with a write that is refused in the same cases.
call('SET', P .. 'check', '1', 'EX', 60)
return 1
