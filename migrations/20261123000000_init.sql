-- Everything that is known of past and present runs.
--
-- Conventions: tables are singular and STRICT, their key is `<table>_id`; times are integer ms since
-- the epoch, UTC, and end in `_ms`; paths are relative to the folder of this database; digests are
-- BLAKE3 in hex. Metrics are sums, never ready-made ratios, so that a ratio over any interval is
-- exact; the views `result` and `curve` give the ratios people ask for.

-- One version of a sweep file, as a recipe turned it into jobs. Editing the file adds a row, so the
-- provenance of older jobs is kept.
CREATE TABLE sweep (
    -- Key.
    sweep_id INTEGER PRIMARY KEY,
    -- The sweep's `name`; also its folder. Not unique: see `revision`.
    name TEXT NOT NULL,
    -- Counts the versions of one name from 1; the greatest is the current one.
    revision INTEGER NOT NULL,
    -- The sweep file as the user wrote it.
    text TEXT NOT NULL,
    -- Digest of `text`, to see quickly whether the file was edited.
    text_digest TEXT NOT NULL,
    -- Name or path of the recipe, as the sweep has it.
    recipe TEXT NOT NULL,
    -- Digest of the recipe's source or component; with `request_digest` it makes the plan replayable.
    recipe_digest TEXT NOT NULL,
    -- Digest of what the recipe was asked; differs from that of `text` also by `--set` and defaults.
    request_digest TEXT NOT NULL,
    -- Digest of the ids and names of the jobs: the same file makes other jobs when the content of
    -- the model or of the text is another.
    jobs_digest TEXT NOT NULL,
    -- What the recipe's run cost, in wasmtime's fuel (about one unit an instruction).
    fuel INTEGER NOT NULL,
    -- When this version was first run.
    created_ms INTEGER NOT NULL,
    CONSTRAINT sweep_revision UNIQUE (name, revision),
    CONSTRAINT sweep_plan UNIQUE (name, text_digest, recipe_digest, request_digest, jobs_digest)
) STRICT;

-- One resolved training configuration. Its id is a hash of all that determines the result, so a job
-- that several sweeps ask for is one row and is trained once.
CREATE TABLE job (
    -- Hash of settings, SAEs, model, token data and trainer version; 12 hex digits.
    job_id TEXT PRIMARY KEY NOT NULL,
    -- The job's folder, as it was when the job was first seen; later sweeps find it here.
    dir TEXT NOT NULL,
    -- Where the job stands; `job_status_transition` says which changes are allowed.
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
    CONSTRAINT job_status CHECK (status IN ('queued', 'running', 'done', 'failed', 'interrupted')),
    CONSTRAINT job_done_ms CHECK ((status = 'done') = (done_ms IS NOT NULL)),
    CONSTRAINT job_config CHECK (json_valid(config))
) STRICT;

-- What is done stays done, unless all that it left here is deleted first (`--fresh`).
CREATE TRIGGER job_status_transition BEFORE UPDATE OF status ON job
WHEN NOT (
    NEW.status = OLD.status
    OR (OLD.status = 'queued' AND NEW.status = 'running')
    OR (OLD.status = 'running' AND NEW.status IN ('queued', 'done', 'failed', 'interrupted'))
    OR (OLD.status IN ('failed', 'interrupted') AND NEW.status IN ('queued', 'running'))
    OR (
        OLD.status = 'done' AND NEW.status = 'queued'
        AND NOT EXISTS (SELECT 1 FROM checkpoint WHERE checkpoint.job_id = OLD.job_id)
        AND NOT EXISTS (
            SELECT 1 FROM metric JOIN sae USING (sae_id) WHERE sae.job_id = OLD.job_id
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

-- Which jobs a version of a sweep asks for. The same job may stand in several sweeps, and under two
-- names in one.
CREATE TABLE sweep_job (
    -- The version of the sweep.
    sweep_id INTEGER NOT NULL REFERENCES sweep (sweep_id),
    -- Place in the recipe's answer, from 0.
    ordinal INTEGER NOT NULL,
    -- The job.
    job_id TEXT NOT NULL REFERENCES job (job_id),
    -- Name the recipe gave the job in this sweep.
    name TEXT NOT NULL,
    -- The recipe's remark; NULL where it made none.
    note TEXT,
    -- What the recipe changed of `[train]`; JSON object.
    overrides TEXT NOT NULL,
    PRIMARY KEY (sweep_id, ordinal),
    CONSTRAINT sweep_job_name UNIQUE (sweep_id, name),
    CONSTRAINT sweep_job_overrides CHECK (json_valid(overrides))
) STRICT, WITHOUT ROWID;

CREATE INDEX sweep_job_job ON sweep_job (job_id);

-- One sparse autoencoder of a job: one per hookpoint and seed of the initial weights.
CREATE TABLE sae (
    -- Key.
    sae_id INTEGER PRIMARY KEY,
    -- The job that trains it.
    job_id TEXT NOT NULL REFERENCES job (job_id),
    -- Folder below the job's: the hookpoint, and `/seed{n}` where the job has several seeds.
    name TEXT NOT NULL,
    -- Submodule of the model whose output it reconstructs.
    hookpoint TEXT NOT NULL,
    -- Seed of the initial weights.
    seed INTEGER NOT NULL,
    -- Width of the activations.
    d_in INTEGER NOT NULL,
    -- Number of latents.
    num_latents INTEGER NOT NULL,
    -- Latents a token may use.
    k INTEGER NOT NULL,
    -- Learning rate, resolved.
    lr REAL NOT NULL,
    CONSTRAINT sae_name UNIQUE (job_id, name),
    CONSTRAINT sae_shape CHECK (d_in > 0 AND k > 0 AND k <= num_latents)
) STRICT;

-- Jobs that share one forward pass of the language model, hence one worker.
CREATE TABLE stream (
    -- Hash of `key` and the job ids; 12 hex digits.
    stream_id TEXT PRIMARY KEY NOT NULL,
    -- Folder of order.json, events.jsonl and worker.log, as it was when the stream was first seen:
    -- event numbers go on in that events.jsonl.
    dir TEXT NOT NULL,
    -- What its jobs have in common; JSON object.
    key TEXT NOT NULL,
    -- Blocks of the model that its forward pass runs.
    n_layers_run INTEGER NOT NULL,
    -- Predicted memory of the language model's weights, in bytes.
    model_bytes INTEGER NOT NULL,
    -- Predicted memory of all SAEs and their optimizers, in bytes.
    sae_bytes INTEGER NOT NULL,
    -- Predicted memory of what a step needs beside them, in bytes.
    workspace_bytes INTEGER NOT NULL,
    -- Optimizer updates in all; NULL until a worker has counted the tokens.
    n_steps INTEGER,
    -- Tokens of one optimizer update; NULL until a worker has said so.
    tokens_per_step INTEGER,
    -- Number of the last event folded in; events up to it are skipped, so folding twice is harmless.
    last_event_seq INTEGER NOT NULL DEFAULT 0,
    -- Attempt that wrote that event; shows when events.jsonl was started anew.
    last_event_attempt INTEGER NOT NULL DEFAULT 0,
    -- When that event was written; NULL before the first.
    last_event_ms INTEGER,
    -- When the stream was first planned.
    created_ms INTEGER NOT NULL,
    CONSTRAINT stream_dir UNIQUE (dir),
    CONSTRAINT stream_key CHECK (json_valid(key))
) STRICT;

-- Which jobs a stream trains.
CREATE TABLE stream_job (
    -- The stream.
    stream_id TEXT NOT NULL REFERENCES stream (stream_id),
    -- The job.
    job_id TEXT NOT NULL REFERENCES job (job_id),
    PRIMARY KEY (stream_id, job_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX stream_job_job ON stream_job (job_id);

-- One try of a worker at a stream.
CREATE TABLE attempt (
    -- Key; grows with time over all streams.
    attempt_id INTEGER PRIMARY KEY,
    -- The stream.
    stream_id TEXT NOT NULL REFERENCES stream (stream_id),
    -- Counts the tries at this stream from 1.
    number INTEGER NOT NULL,
    -- How it stands: `crashed` is an end without a word of the worker.
    status TEXT NOT NULL,
    -- Host of the worker; NULL until it has reported.
    host TEXT,
    -- Process id of the worker on that host; NULL until it has reported.
    pid INTEGER,
    -- Device it trains on, such as `cpu` or `cuda:0`; NULL until it has reported.
    device TEXT,
    -- Version of libtorch; NULL until it has reported.
    libtorch TEXT,
    -- Optimizer updates done before it, that is in the checkpoints it went on from; NULL until known.
    first_step INTEGER,
    -- File with what the worker printed; NULL for an attempt known from its events alone.
    log TEXT,
    -- When it was started.
    started_ms INTEGER NOT NULL,
    -- When it ended, or was found dead; NULL while it runs.
    ended_ms INTEGER,
    -- The worker's exit code; NULL while it runs and where a signal ended it.
    exit_code INTEGER,
    -- Whose fault a failure is: `input` (a retry fails again) or `internal`; NULL where not said.
    failure TEXT,
    -- Why it ended, in words; NULL for a good end.
    reason TEXT,
    -- What the user can do about it; NULL where nothing is known.
    hint TEXT,
    CONSTRAINT attempt_number UNIQUE (stream_id, number),
    CONSTRAINT attempt_status
        CHECK (status IN ('running', 'done', 'failed', 'interrupted', 'crashed')),
    CONSTRAINT attempt_failure CHECK (failure IN ('input', 'internal')),
    CONSTRAINT attempt_ended_ms CHECK ((status = 'running') = (ended_ms IS NULL))
) STRICT;

-- A stream has one worker at a time.
CREATE UNIQUE INDEX attempt_running ON attempt (stream_id) WHERE status = 'running';

-- Which jobs an attempt trains: those of its stream that were not done. What an attempt says of a
-- job counts only while it is the last one here for that job, so a late word of an older attempt, or
-- of one before a `--fresh`, changes nothing.
CREATE TABLE attempt_job (
    -- The attempt.
    attempt_id INTEGER NOT NULL REFERENCES attempt (attempt_id),
    -- The job.
    job_id TEXT NOT NULL REFERENCES job (job_id),
    PRIMARY KEY (attempt_id, job_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX attempt_job_job ON attempt_job (job_id, attempt_id);

-- Sufficient statistics of one SAE over the steps since its previous row. A sum that was not finite
-- (training diverged) is NULL, and so is every ratio made of it.
CREATE TABLE metric (
    -- The SAE.
    sae_id INTEGER NOT NULL REFERENCES sae (sae_id),
    -- Optimizer updates done at the end of the interval. A step done again after a resume replaces
    -- the earlier row.
    step INTEGER NOT NULL,
    -- The attempt that reported it.
    attempt_id INTEGER NOT NULL REFERENCES attempt (attempt_id),
    -- Tokens the sums run over.
    n_tokens INTEGER NOT NULL,
    -- Sum over tokens of |sae_out - x|^2.
    squared_error REAL,
    -- Sum over steps of the step's total variance, sum over tokens of |x - mean(x)|^2.
    total_variance REAL,
    -- Sum over tokens of the number of latents with activation > 0.
    l0_sum REAL,
    -- Latents that were dead at the end: silent for more than `dead_feature_threshold` tokens.
    n_dead INTEGER NOT NULL,
    -- When it was reported.
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (sae_id, step),
    CONSTRAINT metric_range CHECK (step > 0 AND n_tokens >= 0 AND n_dead >= 0)
) STRICT, WITHOUT ROWID;

-- Speed of an attempt over the steps since its previous row; counts and times, so that tokens/s over
-- any interval is a ratio of sums.
CREATE TABLE progress (
    -- The attempt.
    attempt_id INTEGER NOT NULL REFERENCES attempt (attempt_id),
    -- Optimizer updates done at the end of the interval.
    step INTEGER NOT NULL,
    -- Tokens that went through the language model.
    n_tokens INTEGER NOT NULL,
    -- Wall time, in ms.
    elapsed_ms INTEGER NOT NULL,
    PRIMARY KEY (attempt_id, step),
    CONSTRAINT progress_range CHECK (n_tokens >= 0 AND elapsed_ms >= 0)
) STRICT, WITHOUT ROWID;

-- A checkpoint of a job that was complete on disk. The next one takes its place in the same folder.
CREATE TABLE checkpoint (
    -- The job.
    job_id TEXT NOT NULL REFERENCES job (job_id),
    -- Optimizer updates done.
    step INTEGER NOT NULL,
    -- The attempt that wrote it.
    attempt_id INTEGER NOT NULL REFERENCES attempt (attempt_id),
    -- The job's folder.
    path TEXT NOT NULL,
    -- 1 when training of the job is over, else 0.
    is_final INTEGER NOT NULL,
    -- When it was complete.
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (job_id, step),
    CONSTRAINT checkpoint_is_final CHECK (is_final IN (0, 1))
) STRICT, WITHOUT ROWID;

-- One row per sweep name and job that any of its versions asked for; the job's name is that of the
-- newest version that has it.
CREATE VIEW sweep_listing AS
SELECT
    -- Name of the sweep.
    sweep.name AS sweep,
    -- Newest version of the sweep that asks for the job.
    sweep.revision AS revision,
    -- 1 while the newest version asks for the job, 0 when the sweep was edited since.
    sweep.revision = (SELECT max(newest.revision) FROM sweep AS newest WHERE newest.name = sweep.name)
        AS is_current,
    -- Place of the job in that version, from 0.
    sweep_job.ordinal AS ordinal,
    -- Name of the job.
    sweep_job.name AS job,
    -- The job.
    sweep_job.job_id AS job_id
FROM sweep_job
JOIN sweep USING (sweep_id)
WHERE sweep.revision = (
    SELECT max(newest.revision)
    FROM sweep AS newest
    JOIN sweep_job AS link USING (sweep_id)
    WHERE newest.name = sweep.name AND link.job_id = sweep_job.job_id
);

-- How far each SAE has come; one row per SAE that has metrics.
--
-- "The end" of an SAE's training are its metric rows with 10 * step > 9 * (its last step), that is
-- the last tenth of the steps done so far and at least the last row. A ratio is NULL where its
-- denominator is 0 or one of its sums was not finite.
CREATE VIEW sae_result AS
WITH span AS (
    SELECT sae_id, max(step) AS last_step, sum(n_tokens) AS n_tokens FROM metric GROUP BY sae_id
),
tail AS (
    SELECT
        metric.sae_id,
        -- sum() skips NULL, which would make a diverged run look better than it is.
        CASE WHEN count(squared_error) = count(*) AND count(total_variance) = count(*)
            THEN sum(squared_error) / nullif(sum(total_variance), 0.0) END AS fvu,
        CASE WHEN count(l0_sum) = count(*)
            THEN sum(l0_sum) / nullif(sum(metric.n_tokens), 0) END AS l0
    FROM metric
    JOIN span USING (sae_id)
    WHERE 10 * metric.step > 9 * span.last_step
    GROUP BY metric.sae_id
),
speed AS (
    SELECT
        attempt_job.job_id,
        1000.0 * sum(progress.n_tokens) / nullif(sum(progress.elapsed_ms), 0) AS tokens_per_s
    FROM attempt_job
    JOIN progress USING (attempt_id)
    GROUP BY attempt_job.job_id
)
SELECT
    -- The SAE.
    sae.sae_id AS sae_id,
    -- Tokens it was trained on: the sum over its metric rows.
    span.n_tokens AS n_tokens,
    -- Optimizer updates done, by its last metric row.
    span.last_step AS step,
    -- Fraction of variance unexplained over the end: squared error over total variance.
    tail.fvu AS fvu,
    -- Mean number of active latents a token over the end.
    tail.l0 AS l0,
    -- Dead latents at its last metric row, in percent.
    100.0 * newest.n_dead / sae.num_latents AS dead_pct,
    -- Tokens a second through the language model, over all attempts that trained the job; jobs of
    -- one stream share that pass, so do not add them up.
    speed.tokens_per_s AS tokens_per_s,
    -- Folder of the SAE's newest checkpoint; NULL before the first.
    (
        SELECT checkpoint.path || '/' || sae.name FROM checkpoint
        WHERE checkpoint.job_id = sae.job_id ORDER BY checkpoint.step DESC LIMIT 1
    ) AS checkpoint
FROM sae
JOIN span USING (sae_id)
JOIN tail USING (sae_id)
JOIN metric AS newest ON newest.sae_id = sae.sae_id AND newest.step = span.last_step
LEFT JOIN speed ON speed.job_id = sae.job_id;

-- What came out: one row per SAE of each job of each sweep, for jobs that have metrics. The columns
-- from `n_tokens` on are those of `sae_result`, which defines them.
CREATE VIEW result AS
SELECT
    -- Name of the sweep.
    sweep_listing.sweep AS sweep,
    -- 1 while the sweep's newest version asks for the job, 0 when it was edited since.
    sweep_listing.is_current AS is_current,
    -- Place of the job in the sweep, from 0.
    sweep_listing.ordinal AS ordinal,
    -- Name of the job in the sweep.
    sweep_listing.job AS job,
    -- The job.
    job.job_id AS job_id,
    -- Where the job stands: queued, running, done, failed, interrupted.
    job.status AS status,
    -- The submodule whose output is reconstructed.
    sae.hookpoint AS hookpoint,
    -- Name of the SAE: the hookpoint, and `/seed{n}` where the job has several seeds.
    sae.name AS sae,
    -- Key of the SAE, to join `metric` with.
    sae.sae_id AS sae_id,
    -- Seed of the initial weights.
    sae.seed AS seed,
    -- Width of the activations.
    sae.d_in AS d_in,
    -- Latents a token may use.
    sae.k AS k,
    -- Latents per input dimension.
    1.0 * sae.num_latents / sae.d_in AS expansion_factor,
    -- Number of latents.
    sae.num_latents AS num_latents,
    -- Learning rate.
    sae.lr AS lr,
    -- Tokens trained on.
    sae_result.n_tokens AS n_tokens,
    -- Optimizer updates done.
    sae_result.step AS step,
    -- Fraction of variance unexplained over the end of training (the last tenth of the steps).
    sae_result.fvu AS fvu,
    -- Mean number of active latents a token over the end of training.
    sae_result.l0 AS l0,
    -- Dead latents, in percent.
    sae_result.dead_pct AS dead_pct,
    -- Tokens a second through the language model.
    sae_result.tokens_per_s AS tokens_per_s,
    -- Folder of the SAE's newest checkpoint.
    sae_result.checkpoint AS checkpoint
FROM sweep_listing
JOIN job USING (job_id)
JOIN sae USING (job_id)
JOIN sae_result USING (sae_id);

-- How training went: one row per metric row of each SAE of each job of each sweep. The ratios are
-- over the row's own interval, and NULL where the denominator is 0 or a sum was not finite.
CREATE VIEW curve AS
WITH counted AS (
    SELECT metric.*, sum(n_tokens) OVER (PARTITION BY sae_id ORDER BY step) AS n_tokens_so_far
    FROM metric
)
SELECT
    -- Name of the sweep.
    sweep_listing.sweep AS sweep,
    -- Name of the job in the sweep.
    sweep_listing.job AS job,
    -- The job.
    sweep_listing.job_id AS job_id,
    -- The submodule whose output is reconstructed.
    sae.hookpoint AS hookpoint,
    -- Name of the SAE.
    sae.name AS sae,
    -- Key of the SAE.
    sae.sae_id AS sae_id,
    -- Optimizer updates done.
    counted.step AS step,
    -- Tokens trained on from the start up to here.
    counted.n_tokens_so_far AS n_tokens,
    -- Fraction of variance unexplained.
    counted.squared_error / nullif(counted.total_variance, 0.0) AS fvu,
    -- Mean number of active latents a token.
    counted.l0_sum / nullif(counted.n_tokens, 0) AS l0,
    -- Dead latents at the end of the interval, in percent.
    100.0 * counted.n_dead / sae.num_latents AS dead_pct,
    -- When it was reported.
    counted.time_ms AS time_ms
FROM counted
JOIN sae USING (sae_id)
JOIN sweep_listing USING (job_id);
