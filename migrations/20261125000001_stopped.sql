-- A job that was stopped on request is told from one that was cut off: nobody has to look for what went
-- wrong with it. And a job that runs is queued again only through an end of its attempt, which says why.
--
-- A check cannot be altered, so the table is made anew. Its rows are referred to meanwhile.
PRAGMA defer_foreign_keys = ON;

CREATE TABLE job_copy AS SELECT * FROM job;
DROP TABLE job;

-- One resolved training configuration. Its id is a hash of all that determines the result, so a job
-- that several sweeps ask for is one row and is trained once.
CREATE TABLE job (
    -- Hash of settings, SAEs, model, token data and trainer version; 12 hex digits.
    job_id TEXT PRIMARY KEY NOT NULL,
    -- The job's folder, as it was when the job was first seen; later sweeps find it here.
    dir TEXT NOT NULL,
    -- Where the job stands: `queued`, `running`, `done` (its final checkpoint is on disk), `failed` (an
    -- error of its own, or no retries left), `interrupted` (cut off: killed, preempted, a machine that went
    -- down) or `stopped` (the user asked for it). `job_status_transition` says which changes are allowed.
    status TEXT NOT NULL DEFAULT 'queued',
    -- Name or folder of the language model, as the user gave it.
    model TEXT NOT NULL,
    -- Digest of the model's files: the name alone does not say which weights.
    model_digest TEXT NOT NULL,
    -- File or folder of the text, as the user gave it.
    dataset TEXT NOT NULL,
    -- Digest of the token data.
    token_digest TEXT NOT NULL,
    -- Version of the trainer's semantics the id was made with.
    trainer_version INTEGER NOT NULL,
    -- All settings, resolved; JSON.
    config TEXT NOT NULL,
    -- When the job was first asked for.
    created_ms INTEGER NOT NULL,
    -- When its final checkpoint was complete; NULL until then.
    done_ms INTEGER,
    CONSTRAINT job_dir UNIQUE (dir),
    CONSTRAINT job_status
        CHECK (status IN ('queued', 'running', 'done', 'failed', 'interrupted', 'stopped')),
    CONSTRAINT job_done_ms CHECK ((status = 'done') = (done_ms IS NOT NULL)),
    CONSTRAINT job_config CHECK (json_valid(config))
) STRICT;

INSERT INTO job (
    job_id, dir, status, model, model_digest, dataset, token_digest, trainer_version, config, created_ms,
    done_ms
)
SELECT
    job_id, dir, status, model, model_digest, dataset, token_digest, trainer_version, config, created_ms,
    done_ms
FROM job_copy;
DROP TABLE job_copy;

-- What is done stays done, unless all that it left here is deleted first (`--fresh`); evaluations are
-- part of that. A job leaves `running` only through the end of an attempt; who asked for
-- that end may be known after the worker's word.
CREATE TRIGGER job_status_transition BEFORE UPDATE OF status ON job
WHEN NOT (
    NEW.status = OLD.status
    OR (OLD.status = 'queued' AND NEW.status = 'running')
    OR (OLD.status = 'running' AND NEW.status IN ('done', 'failed', 'interrupted', 'stopped'))
    OR (OLD.status = 'interrupted' AND NEW.status = 'stopped')
    OR (
        OLD.status IN ('failed', 'interrupted', 'stopped') AND NEW.status IN ('queued', 'running')
    )
    OR (
        OLD.status = 'done' AND NEW.status = 'queued'
        AND NOT EXISTS (SELECT 1 FROM checkpoint WHERE checkpoint.job_id = OLD.job_id)
        AND NOT EXISTS (
            SELECT 1 FROM metric JOIN sae USING (sae_id) WHERE sae.job_id = OLD.job_id
        )
        AND NOT EXISTS (
            SELECT 1 FROM evaluation JOIN sae USING (sae_id) WHERE sae.job_id = OLD.job_id
        )
    )
)
BEGIN
    SELECT RAISE(ABORT, 'job_status_transition');
END;

-- A job is asked for before it runs.
CREATE TRIGGER job_starts_queued BEFORE INSERT ON job
WHEN NEW.status <> 'queued'
BEGIN
    SELECT RAISE(ABORT, 'job_status_transition');
END;
