-- The kind of a failure: failed, timed_out, panicked or abandoned; its location in the application's code; the time when
-- the attempt started; and the backtrace, which is last, so that the columns before it are read without it.
ALTER TABLE aside_failures ADD COLUMN kind TEXT NOT NULL DEFAULT 'failed';
ALTER TABLE aside_failures ADD COLUMN location TEXT;
ALTER TABLE aside_failures ADD COLUMN began_at INTEGER;
ALTER TABLE aside_failures ADD COLUMN backtrace TEXT;
