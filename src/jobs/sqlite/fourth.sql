-- The trace id of the request or the work that enqueued the job, as its 16 bytes, and the task or job that did.
ALTER TABLE aside_jobs ADD COLUMN trace BLOB;
ALTER TABLE aside_jobs ADD COLUMN parent TEXT;

CREATE INDEX aside_jobs_trace ON aside_jobs (trace, id) WHERE trace IS NOT NULL;
