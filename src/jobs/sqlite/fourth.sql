-- The trace id of the request or the work that enqueued the job, and the task or job that did.
ALTER TABLE aside_jobs ADD COLUMN trace TEXT;
ALTER TABLE aside_jobs ADD COLUMN parent TEXT;

CREATE INDEX aside_jobs_trace ON aside_jobs (trace, id) WHERE trace IS NOT NULL;
