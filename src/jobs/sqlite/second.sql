-- The cause of a dead job: failed, timed_out, panicked or abandoned.
ALTER TABLE aside_jobs ADD COLUMN cause TEXT NOT NULL DEFAULT 'failed';

-- An index for the counts: in the table the column is stored after the payload.
CREATE INDEX aside_jobs_dead ON aside_jobs (cause) WHERE state = 4;
