-- The output of a done job, as JSON.
ALTER TABLE aside_jobs ADD COLUMN output TEXT;
