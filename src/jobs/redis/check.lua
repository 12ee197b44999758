-- Whether a job could be kept: a write that is refused where one of a job would be.
call('SET', P .. 'check', '1', 'EX', 60)
return 1
