-- The trace id of the request or the work that enqueued the job, as the integers of its upper and its lower 64 bits, which SQLite
-- compares faster than 16 bytes, and the task or job that did.
ALTER TABLE aside_jobs ADD COLUMN trace_high INTEGER;
ALTER TABLE aside_jobs ADD COLUMN trace_low INTEGER;
ALTER TABLE aside_jobs ADD COLUMN parent TEXT;

CREATE INDEX aside_jobs_trace ON aside_jobs (trace_high, trace_low) WHERE trace_high IS NOT NULL;

-- Without waiting jobs, so that a job that is enqueued has one entry less.
DROP INDEX aside_jobs_state;
CREATE INDEX aside_jobs_state ON aside_jobs (state) WHERE state <> 0;

-- Records the highest id that was ever assigned, when its job is deleted. An engine's own connection does the same.
CREATE TRIGGER aside_jobs_newest AFTER DELETE ON aside_jobs WHEN OLD.id > coalesce((SELECT max(id) FROM aside_jobs), 0) BEGIN
    INSERT INTO aside_meta (key, value) VALUES ('last_id', OLD.id)
        ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value);
END;
