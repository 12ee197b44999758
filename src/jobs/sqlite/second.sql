-- What made a job dead: failed, timed_out, panicked or abandoned.
ALTER TABLE aside_jobs ADD COLUMN cause TEXT NOT NULL DEFAULT 'failed';

-- For the counts alone: the column lies behind the payload.
CREATE INDEX aside_jobs_dead ON aside_jobs (cause) WHERE state = 4;
