-- The number of jobs in each state, so that a million jobs are counted without reading them: of waiting jobs for each
-- queue, of the others with an empty queue. Running jobs are few, and not counted here. The triggers
-- miss no change of a state; an engine's own connection counts without them, at a fraction of the cost.
CREATE TABLE aside_counts (
    state INTEGER NOT NULL,
    queue TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (state, queue)
) WITHOUT ROWID;

INSERT INTO aside_counts (state, queue, count)
    SELECT state, CASE state WHEN 0 THEN queue ELSE '' END, count(*) FROM aside_jobs WHERE state <> 2 GROUP BY 1, 2;

CREATE TRIGGER aside_jobs_inserted AFTER INSERT ON aside_jobs WHEN NEW.state <> 2 BEGIN
    INSERT INTO aside_counts (state, queue, count) VALUES (NEW.state, CASE NEW.state WHEN 0 THEN NEW.queue ELSE '' END, 1)
        ON CONFLICT (state, queue) DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER aside_jobs_deleted AFTER DELETE ON aside_jobs WHEN OLD.state <> 2 BEGIN
    UPDATE aside_counts SET count = count - 1
        WHERE state = OLD.state AND queue = CASE OLD.state WHEN 0 THEN OLD.queue ELSE '' END;
END;

CREATE TRIGGER aside_jobs_entered AFTER UPDATE OF state ON aside_jobs WHEN NEW.state <> 2 AND NEW.state <> OLD.state BEGIN
    INSERT INTO aside_counts (state, queue, count) VALUES (NEW.state, CASE NEW.state WHEN 0 THEN NEW.queue ELSE '' END, 1)
        ON CONFLICT (state, queue) DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER aside_jobs_left AFTER UPDATE OF state ON aside_jobs WHEN OLD.state <> 2 AND NEW.state <> OLD.state BEGIN
    UPDATE aside_counts SET count = count - 1
        WHERE state = OLD.state AND queue = CASE OLD.state WHEN 0 THEN OLD.queue ELSE '' END;
END;

-- The dead jobs grouped by equal errors: the type of the job, and the start of the message with `#` for each number.
-- last_at and newest: the time when the newest of them died, and its id. The migration adds the jobs that are dead already.
CREATE TABLE aside_groups (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    error TEXT NOT NULL,
    count INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    UNIQUE (name, error)
);
CREATE INDEX aside_groups_last ON aside_groups (last_at, newest);

ALTER TABLE aside_jobs ADD COLUMN error_group INTEGER;
CREATE INDEX aside_jobs_group ON aside_jobs (error_group, ended_at, id) WHERE state = 4;

-- For people who read a list of the workers. heartbeat_at: the time of the last heartbeat.
ALTER TABLE aside_workers ADD COLUMN host TEXT;
ALTER TABLE aside_workers ADD COLUMN pid INTEGER;
ALTER TABLE aside_workers ADD COLUMN heartbeat_at INTEGER;
