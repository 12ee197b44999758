CREATE TABLE aside_meta (
    key TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

-- Without AUTOINCREMENT, which writes one more page for each transaction that enqueues. No id is assigned twice all the same,
-- not even the id of a discarded job: see aside_jobs_newest. Files from before the fourth version have it, and keep it.
-- state: 0 waiting, 1 scheduled, 2 running, 3 done, 4 dead, 5 cancelled.
-- rank: the time from which the job waits, minus a minute for each point of priority. wait: the delay, if the due
-- time was given as a delay. token: the number of claims. The payload is last, so that the columns before it are read
-- without it.
CREATE TABLE aside_jobs (
    id INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    queue TEXT NOT NULL,
    name TEXT NOT NULL,
    unique_key TEXT,
    priority INTEGER NOT NULL,
    token INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    is_cancelling INTEGER NOT NULL DEFAULT 0,
    enqueued_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    wait INTEGER,
    began_at INTEGER,
    ended_at INTEGER,
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '',
    label TEXT NOT NULL,
    origin TEXT,
    payload TEXT NOT NULL
);

-- A claim reads as many entries as it takes, however many jobs wait.
CREATE INDEX aside_jobs_waiting ON aside_jobs (queue, rank, id) WHERE state = 0;
CREATE INDEX aside_jobs_due ON aside_jobs (due_at) WHERE state = 1;
CREATE UNIQUE INDEX aside_jobs_unique ON aside_jobs (name, unique_key) WHERE unique_key IS NOT NULL AND state < 3;
CREATE INDEX aside_jobs_ended ON aside_jobs (ended_at, id) WHERE state IN (3, 5);
-- By state and, like every index, by id: for lists, counts and running jobs, which are few.
CREATE INDEX aside_jobs_state ON aside_jobs (state);

CREATE TABLE aside_failures (
    job INTEGER NOT NULL,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    at INTEGER NOT NULL,
    words TEXT NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;

CREATE TABLE aside_workers (
    id TEXT PRIMARY KEY,
    beat INTEGER NOT NULL,
    has_lock INTEGER NOT NULL
) WITHOUT ROWID;

-- The paused queues.
CREATE TABLE aside_queues (
    name TEXT PRIMARY KEY
) WITHOUT ROWID;

CREATE TABLE aside_schedules (
    name TEXT PRIMARY KEY,
    last_tick INTEGER NOT NULL
) WITHOUT ROWID;
