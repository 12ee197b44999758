-- The trace id of the request or the work that enqueued the job, as the integers of its upper and its lower 64 bits, which SQLite
-- compares faster than 16 bytes, and the task or job that did.
ALTER TABLE aside_jobs ADD COLUMN trace_high INTEGER;
ALTER TABLE aside_jobs ADD COLUMN trace_low INTEGER;
ALTER TABLE aside_jobs ADD COLUMN parent TEXT;

CREATE INDEX aside_jobs_trace ON aside_jobs (trace_high, trace_low) WHERE trace_high IS NOT NULL;
