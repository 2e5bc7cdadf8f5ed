-- The database of a runs folder: all that is known about past and present runs.
--
-- Conventions: tables are singular and STRICT, their key is `<table>_id`. Times are integer ms since the epoch, UTC,
-- and end in `_ms`; views have them as text, `2026-11-27T23:07:22Z`. Paths are relative to the folder of this database. Digests are BLAKE3 in hex. Metrics are sums,
-- not ratios, so that a ratio over any interval is exact; the views `result` and `curve` give the ratios people ask
-- for.
--
-- This is the schema of the first release. A later release changes it with a file of its own beside this one.

-- ---- Sweeps and their jobs: what was asked for ----

-- A recipe that a sweep was planned with.
CREATE TABLE recipe (
    -- Digest of the source or component, as in `sweep`.
    recipe_digest TEXT PRIMARY KEY NOT NULL,
    -- Source text of a recipe in Python; NULL for a component.
    source TEXT
) STRICT, WITHOUT ROWID;

-- One version of a sweep file, as a recipe turned it into jobs. Editing the file adds a row, so the
-- provenance of older jobs is kept.
CREATE TABLE sweep (
    -- Key.
    sweep_id INTEGER PRIMARY KEY,
    -- The sweep's `name`; also its folder. Several rows may have it: see `revision`.
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
    -- Digest of the ids and names of the jobs: the same file makes other jobs after the model or the
    -- text has changed.
    jobs_digest TEXT NOT NULL,
    -- What the recipe's run cost, in wasmtime's fuel (about one unit an instruction).
    fuel INTEGER NOT NULL,
    -- 1 for a version that `sae-run train` made: each command adds its job to those of the commands before it, so all
    -- such versions of a name are current together. Else 0.
    accumulates INTEGER NOT NULL DEFAULT 0,
    -- When this version was first run.
    created_ms INTEGER NOT NULL,
    CONSTRAINT sweep_accumulates CHECK (accumulates IN (0, 1)),
    CONSTRAINT sweep_revision UNIQUE (name, revision),
    CONSTRAINT sweep_plan UNIQUE (name, text_digest, recipe_digest, request_digest, jobs_digest)
) STRICT;

-- What a version of a sweep was first run with.
CREATE TABLE sweep_origin (
    -- The version of the sweep.
    sweep_id INTEGER PRIMARY KEY NOT NULL REFERENCES sweep (sweep_id),
    -- Version of sae-run.
    sae_run TEXT NOT NULL,
    -- Commit of the git checkout that the sweep file is in, followed by `-dirty` where files had been
    -- changed since; NULL outside a checkout.
    git_commit TEXT,
    -- Folder of the sweep file when it was last run, in which its relative paths are looked for first; with
    -- `sae-run train` the current folder. From the root on; NULL where it is not known.
    folder TEXT,
    -- The folder that was current then, in which they are looked for next; NULL where it is not known.
    current_folder TEXT
) STRICT;

-- One call of a sweep's recipe. A recipe may ask to be called again with the results of its jobs. What it
-- was asked and what it answered is kept, so that a resumed sweep goes on from the same answers.
CREATE TABLE round (
    -- The version of the sweep.
    sweep_id INTEGER NOT NULL REFERENCES sweep (sweep_id),
    -- Counts the rounds of the sweep from 0.
    number INTEGER NOT NULL,
    -- What the recipe was asked: sweep, model and the results so far; JSON object.
    request TEXT NOT NULL,
    -- Digest of `request` as the recipe got it.
    request_digest TEXT NOT NULL,
    -- What it answered: jobs, and whether it is done; JSON object.
    response TEXT NOT NULL,
    -- `sweep_job.ordinal` of its first job; the jobs before it are from earlier rounds.
    first_ordinal INTEGER NOT NULL,
    -- What the call cost, in wasmtime's fuel (about one unit an instruction).
    fuel INTEGER NOT NULL,
    -- When it was first asked.
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (sweep_id, number),
    CONSTRAINT round_request CHECK (json_valid(request)),
    CONSTRAINT round_response CHECK (json_valid(response))
) STRICT, WITHOUT ROWID;

-- One resolved training configuration. Its id is a hash of all that determines the result, so a job
-- that several sweeps ask for is one row and is trained once.
CREATE TABLE job (
    -- Hash of settings, SAEs, model, token data and trainer version; 12 hex digits.
    job_id TEXT PRIMARY KEY NOT NULL,
    -- The job's folder, as it was when the job was first seen; later sweeps find it here.
    dir TEXT NOT NULL,
    -- `queued`, `running`, `done` (its final checkpoint is on disk), `failed` (an error of its own, or no
    -- retries left), `interrupted` (cut off: killed, preempted, a machine that went down) or `stopped`
    -- (the user asked for it). The trigger `job_status_transition` says which changes are allowed.
    status TEXT NOT NULL DEFAULT 'queued',
    -- Name or folder of the language model, as the user gave it.
    model TEXT NOT NULL,
    -- Digest of the model's files, since its name does not say which weights.
    model_digest TEXT NOT NULL,
    -- Digest of the files of a crosscoder's second model; NULL: there is one model.
    second_model_digest TEXT,
    -- Both digests; one if there is one model.
    models TEXT NOT NULL GENERATED ALWAYS AS (
        CASE WHEN second_model_digest IS NULL THEN model_digest ELSE model_digest || ' ' || second_model_digest END
    ) VIRTUAL,
    -- File or folder of the text, as the user gave it.
    dataset TEXT NOT NULL,
    -- Digest of the token data.
    token_digest TEXT NOT NULL,
    -- Version of the trainer's semantics that the id was made with.
    trainer_version INTEGER NOT NULL,
    -- All settings, resolved; JSON.
    config TEXT NOT NULL,
    -- The same hash as `job_id` without how long it is trained: jobs that have it in common begin alike, and a longer one
    -- can continue from a state that a shorter one has kept.
    course_id TEXT NOT NULL,
    -- Kind of its SAEs: the activation, after `matryoshka` if prefixes of the latents are trained too, or
    -- `hierarchical` if each token's latents are, from the largest on. Before that `crosscoder` if one is on all
    -- hookpoints, `cross-layer` for a transcoder that writes to later layers too, or `transcoder` for others.
    kind TEXT NOT NULL GENERATED ALWAYS AS (
        CASE
            WHEN coalesce(json_extract(config, '$.crosscoder'), 0) THEN 'crosscoder '
            WHEN coalesce(json_extract(config, '$.cross_layer'), 0) THEN 'cross-layer '
            WHEN coalesce(json_extract(config, '$.transcode'), 0) THEN 'transcoder '
            ELSE ''
        END || CASE
            WHEN coalesce(json_array_length(config, '$.matryoshka_widths'), 0) > 0
                OR coalesce(json_extract(config, '$.matryoshka_prefixes'), 0) > 0 THEN 'matryoshka '
            WHEN coalesce(json_extract(config, '$.hierarchical_topk'), 0) THEN 'hierarchical '
            ELSE ''
        END || json_extract(config, '$.activation')
    ) VIRTUAL,
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

-- Jobs that begin alike.
CREATE INDEX job_course ON job (course_id);

-- A new job is queued.
CREATE TRIGGER job_starts_queued BEFORE INSERT ON job
WHEN NEW.status <> 'queued'
BEGIN
    SELECT RAISE(ABORT, 'job_status_transition');
END;

-- A job that is done stays done, unless its checkpoints, metrics, calibrations and evaluations are deleted first
-- (`--fresh`). A job leaves `running` only through the end of an attempt, which says why: `stopped` on
-- request, or `interrupted`. That the user asked for it may become known after the worker's report.
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
            SELECT 1 FROM calibration JOIN sae USING (sae_id) WHERE sae.job_id = OLD.job_id
        )
        AND NOT EXISTS (
            SELECT 1 FROM evaluation JOIN sae USING (sae_id) WHERE sae.job_id = OLD.job_id
        )
    )
)
BEGIN
    SELECT RAISE(ABORT, 'job_status_transition');
END;

-- Which jobs a version of a sweep asks for. Several sweeps may ask for the same job, and one sweep may
-- have it under two names.
CREATE TABLE sweep_job (
    -- The version of the sweep.
    sweep_id INTEGER NOT NULL REFERENCES sweep (sweep_id),
    -- Index in the recipe's answer, from 0.
    ordinal INTEGER NOT NULL,
    -- The job.
    job_id TEXT NOT NULL REFERENCES job (job_id),
    -- Name the recipe gave the job in this sweep.
    name TEXT NOT NULL,
    -- The recipe's remark on the job; NULL without one.
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
    -- Width of the activations that it reads.
    d_in INTEGER NOT NULL,
    -- Number of latents.
    num_latents INTEGER NOT NULL,
    -- Latents that may be active on a token, a whole number; with `batchtopk` on average, which may have a fraction.
    -- Without effect with `relu`, `gated` and `jumprelu`.
    k ANY NOT NULL,
    -- Learning rate, resolved.
    lr REAL NOT NULL,
    CONSTRAINT sae_name UNIQUE (job_id, name),
    CONSTRAINT sae_shape CHECK (d_in > 0 AND num_latents > 0),
    CONSTRAINT sae_k CHECK (typeof(k) IN ('integer', 'real') AND k > 0)
) STRICT;

-- ---- Streams and attempts: how it is trained ----

-- Jobs that share one forward pass of the language model, and so one worker.
CREATE TABLE stream (
    -- Hash of `key` and the job ids; 12 hex digits.
    stream_id TEXT PRIMARY KEY NOT NULL,
    -- Folder of order.json, events.jsonl and worker.log, as it was when the stream was first seen. It stays the
    -- same, since the numbers of events continue in that events.jsonl.
    dir TEXT NOT NULL,
    -- What its jobs have in common; JSON object.
    key TEXT NOT NULL,
    -- Blocks of the model that its forward pass runs.
    n_layers_run INTEGER NOT NULL,
    -- Predicted memory of the language model's weights, in bytes.
    model_bytes INTEGER NOT NULL,
    -- Predicted memory of all SAEs and their optimizers, in bytes.
    sae_bytes INTEGER NOT NULL,
    -- Predicted memory of what a step needs besides these two, in bytes.
    workspace_bytes INTEGER NOT NULL,
    -- Optimizer updates of the whole training; NULL until a worker has counted the tokens.
    n_steps INTEGER,
    -- Tokens of one optimizer update; NULL until a worker has said so.
    tokens_per_step INTEGER,
    -- What was predicted of its time when it was last run, in seconds: JSON object with `of_token_s`, `training_s` (NULL
    -- where the number of tokens was not known), `evaluation_s` and `tokenising_s`. NULL before it was run.
    predicted TEXT,
    -- Number of the last event that is in this database. Events up to it are skipped, so reading them twice is
    -- harmless.
    last_event_seq INTEGER NOT NULL DEFAULT 0,
    -- `attempt.number` that wrote that event; shows that events.jsonl was begun again.
    last_event_attempt INTEGER NOT NULL DEFAULT 0,
    -- When that event was written; NULL before the first.
    last_event_ms INTEGER,
    -- When the stream was first planned.
    created_ms INTEGER NOT NULL,
    CONSTRAINT stream_dir UNIQUE (dir),
    CONSTRAINT stream_key CHECK (json_valid(key)),
    CONSTRAINT stream_predicted CHECK (json_valid(predicted))
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

-- One try of a worker to train a stream.
CREATE TABLE attempt (
    -- Key; grows with time, over all streams.
    attempt_id INTEGER PRIMARY KEY,
    -- The stream.
    stream_id TEXT NOT NULL REFERENCES stream (stream_id),
    -- Counts the attempts at this stream from 1.
    number INTEGER NOT NULL,
    -- `running`, `done`, `failed`, `interrupted` or `crashed` (it ended without a report from the worker).
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
    -- Name of the job of Slurm that it is a run of; NULL for a worker that `sae-run` started itself. A job that Slurm
    -- puts back into its queue has several runs, each an attempt.
    slurm_name TEXT,
    -- Number that Slurm gave that job; NULL until Slurm has answered, and where `slurm_name` is NULL.
    slurm_job_id INTEGER,
    -- Name of the entry in the pool that it is a run of; NULL for other workers. An entry that one machine lost and another
    -- took has several runs, each an attempt.
    pool_entry TEXT,
    -- When it was started.
    started_ms INTEGER NOT NULL,
    -- When it ended, or was found dead; NULL while it runs.
    ended_ms INTEGER,
    -- The worker's exit code; NULL while it runs and where a signal ended it.
    exit_code INTEGER,
    -- What a failure is due to: `input` (a retry would fail again) or `internal`; NULL where not known.
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

-- Which jobs an attempt trains: those of its stream that were not done. What an attempt reports on a job
-- counts only while it is the job's last attempt here. So a late report of an older attempt, or of one before
-- a `--fresh`, changes nothing.
CREATE TABLE attempt_job (
    -- The attempt.
    attempt_id INTEGER NOT NULL REFERENCES attempt (attempt_id),
    -- The job.
    job_id TEXT NOT NULL REFERENCES job (job_id),
    PRIMARY KEY (attempt_id, job_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX attempt_job_job ON attempt_job (job_id, attempt_id);

-- What a worker remarked without failing: bad rows left out, batches cut into smaller parts.
CREATE TABLE attempt_note (
    -- The attempt.
    attempt_id INTEGER NOT NULL REFERENCES attempt (attempt_id),
    -- Number of the event in the stream's events.jsonl.
    event_seq INTEGER NOT NULL,
    -- The remark.
    message TEXT NOT NULL,
    -- When it was made.
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (attempt_id, event_seq)
) STRICT, WITHOUT ROWID;

-- ---- Metrics, checkpoints, calibrations, evaluations: what came of it ----

-- Sufficient statistics of one SAE over the steps since its previous row. A sum that was not finite
-- (training diverged) is NULL, and so is every ratio made from it.
CREATE TABLE metric (
    -- The SAE.
    sae_id INTEGER NOT NULL REFERENCES sae (sae_id),
    -- Optimizer updates done at the end of the interval. A step done again after a resume replaces
    -- the earlier row.
    step INTEGER NOT NULL,
    -- The attempt that reported it.
    attempt_id INTEGER NOT NULL REFERENCES attempt (attempt_id),
    -- Tokens of the interval, over which the sums run.
    n_tokens INTEGER NOT NULL,
    -- Sum over tokens of |sae_out - x|^2.
    squared_error REAL,
    -- Sum over steps of the total variance of each: its sum over tokens of |x - mean(x)|^2.
    total_variance REAL,
    -- Sum over tokens of the number of latents with activation > 0.
    l0_sum REAL,
    -- Latents that were dead at the end of the interval: not active for more than `dead_feature_threshold`
    -- tokens.
    n_dead INTEGER NOT NULL,
    -- When it was reported.
    time_ms INTEGER NOT NULL,
    -- Tokens trained on from the start to the end of the interval: the sum of `n_tokens` up to this row.
    -- Kept so that views need not read all rows of all SAEs to say how far one has come.
    n_tokens_so_far INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (sae_id, step),
    CONSTRAINT metric_range CHECK (step > 0 AND n_tokens >= 0 AND n_dead >= 0)
) STRICT, WITHOUT ROWID;

-- Sums over the interval of a `metric` row for further terms of the loss; only where the loss has such a term.
CREATE TABLE metric_term (
    -- The SAE.
    sae_id INTEGER NOT NULL,
    -- Optimizer updates done at the end of the interval.
    step INTEGER NOT NULL,
    -- Sum over steps of the squared error of the dead latents' prediction, scaled as in the loss
    -- (AuxK); NULL where it is not used or was not finite.
    auxk_sum REAL,
    -- Sum over tokens of the squared error with 4 * k latents (Multi-TopK); NULL where it is not used.
    multi_topk_sum REAL,
    -- Sum over positions of the loss on the model's output, cross-entropy or KL divergence, in nats; NULL where
    -- it is not used.
    output_loss_sum REAL,
    -- Positions in `output_loss_sum`.
    n_output INTEGER NOT NULL,
    -- Sum over steps of the sparsity penalty with its coefficient, scaled as `metric.squared_error`; NULL where there
    -- is no penalty.
    sparsity_sum REAL,
    PRIMARY KEY (sae_id, step),
    CONSTRAINT metric_term_metric
        FOREIGN KEY (sae_id, step) REFERENCES metric (sae_id, step) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Jobs that were not trained from the start, but from a state of another one that differs only in how long it was
-- trained. Their `metric` rows up to there are copies of that one's.
CREATE TABLE extension (
    -- The job.
    job_id TEXT PRIMARY KEY NOT NULL REFERENCES job (job_id),
    -- The job whose state it continued from; it may have been removed since.
    base_job_id TEXT NOT NULL,
    -- Optimizer updates that they have in common.
    step INTEGER NOT NULL,
    CONSTRAINT extension_range CHECK (step > 0)
) STRICT, WITHOUT ROWID;

-- Speed of an attempt over the steps since its previous row. Tokens and times, so that tokens/s over any
-- interval is a ratio of sums.
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

-- What a worker found wrong with an SAE in training.
CREATE TABLE verdict (
    -- Key.
    verdict_id INTEGER PRIMARY KEY,
    -- The SAE.
    sae_id INTEGER NOT NULL REFERENCES sae (sae_id),
    -- The attempt that trained it.
    attempt_id INTEGER NOT NULL REFERENCES attempt (attempt_id),
    -- Optimizer updates done.
    step INTEGER NOT NULL,
    -- What is wrong, in one line.
    reason TEXT NOT NULL,
    -- 1 where training of the job ended because of it, else 0.
    is_fatal INTEGER NOT NULL,
    -- What the user can do about it; NULL where nothing is known.
    hint TEXT,
    -- When it was found.
    time_ms INTEGER NOT NULL,
    CONSTRAINT verdict_is_fatal CHECK (is_fatal IN (0, 1))
) STRICT;

CREATE INDEX verdict_sae ON verdict (sae_id);

-- A checkpoint of a job that was complete on disk. The next one replaces it in the same folder.
CREATE TABLE checkpoint (
    -- The job.
    job_id TEXT NOT NULL REFERENCES job (job_id),
    -- Optimizer updates done.
    step INTEGER NOT NULL,
    -- The attempt that wrote it.
    attempt_id INTEGER NOT NULL REFERENCES attempt (attempt_id),
    -- The job's folder.
    path TEXT NOT NULL,
    -- 1 for the last one of the whole training, else 0.
    is_final INTEGER NOT NULL,
    -- When it was complete.
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (job_id, step),
    CONSTRAINT checkpoint_is_final CHECK (is_final IN (0, 1))
) STRICT, WITHOUT ROWID;

-- The threshold of one checkpoint of an SAE, such that held-out tokens have `k` active latents on average. A
-- threshold or L0 that was not finite is NULL.
CREATE TABLE calibration (
    -- The SAE.
    sae_id INTEGER NOT NULL REFERENCES sae (sae_id),
    -- Optimizer updates done at the checkpoint.
    step INTEGER NOT NULL,
    -- The attempt that found the threshold. Another calibration of the checkpoint replaces the row.
    attempt_id INTEGER NOT NULL REFERENCES attempt (attempt_id),
    -- Held-out tokens that it was found on.
    n_tokens INTEGER NOT NULL,
    -- Mean number of active latents a token that was wanted; of a crosscoder with a threshold for each hookpoint, at
    -- each of them.
    k REAL,
    -- Threshold that training estimated, as an exponential moving average over its updates; NULL where it made no
    -- estimate.
    threshold_ema REAL,
    -- Mean number of active latents a token with `threshold_ema`, over the same tokens.
    l0_ema REAL,
    -- The threshold that was found: a latent is active above it. The checkpoint has it. With a threshold for each
    -- hookpoint, this and `threshold_ema` are the means of theirs, and a latent counts in `l0` and `l0_ema` where it is
    -- active at any of them.
    threshold REAL,
    -- Mean number of active latents a token with `threshold`, over the same tokens.
    l0 REAL,
    -- Of a crosscoder with a threshold for each hookpoint, those: JSON array of objects with `hookpoint`,
    -- `threshold_ema`, `l0_ema`, `threshold` and `l0`, the last for the latents that are active at the hookpoint. NULL
    -- for others.
    hookpoint_thresholds TEXT,
    -- When it was found.
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (sae_id, step),
    CONSTRAINT calibration_range CHECK (n_tokens >= 0),
    CONSTRAINT calibration_hookpoint_thresholds CHECK (json_valid(hookpoint_thresholds))
) STRICT, WITHOUT ROWID;

-- Sufficient statistics of one checkpoint of an SAE over the held-out sequences of its job. A sum that
-- was not finite is NULL, and so is every ratio made from it. Excluded tokens are in no sum.
CREATE TABLE evaluation (
    -- The SAE.
    sae_id INTEGER NOT NULL REFERENCES sae (sae_id),
    -- Optimizer updates done at the checkpoint.
    step INTEGER NOT NULL,
    -- The attempt that evaluated it; NULL where `sae-run eval` did. Evaluating again replaces the row.
    attempt_id INTEGER REFERENCES attempt (attempt_id),
    -- Evaluated tokens, over which the sums of activations run.
    n_tokens INTEGER NOT NULL,
    -- Sum over tokens of |sae_out - y|^2, where y is the hookpoint's output.
    squared_error REAL,
    -- Sum over tokens of |y - mean(y)|^2, with the mean over all evaluated tokens.
    total_variance REAL,
    -- Sum over tokens of the number of latents with activation > 0.
    l0_sum REAL,
    -- Latents that were active on no evaluated token.
    n_dead INTEGER NOT NULL,
    -- Positions with a next token, over which the sums of predictions run.
    n_predicted INTEGER NOT NULL,
    -- Sum of the next token's cross-entropy, in nats, by the model as it is.
    ce_clean_sum REAL,
    -- The same with the SAE's output in place of the hookpoint's.
    ce_spliced_sum REAL,
    -- The same with mean(y) in place of the hookpoint's output.
    ce_ablated_sum REAL,
    -- Sum of the divergence KL(clean || spliced) of the distributions of the next token, in nats.
    kl_sum REAL,
    -- File with the firing density of each latent; NULL where none was written.
    density TEXT,
    -- When it was evaluated.
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (sae_id, step),
    CONSTRAINT evaluation_range CHECK (n_tokens >= 0 AND n_dead >= 0 AND n_predicted >= 0)
) STRICT, WITHOUT ROWID;

-- ---- Notes and tags: what users write about jobs and sweeps ----

-- A note of a user about a job or a sweep (`sae-run note`).
CREATE TABLE note (
    -- Key; grows with time.
    note_id INTEGER PRIMARY KEY,
    -- The job that it is about; NULL for a note about a sweep.
    job_id TEXT REFERENCES job (job_id),
    -- Name of the sweep that it is about; NULL for a note about a job.
    sweep TEXT,
    -- The note.
    text TEXT NOT NULL,
    -- When it was written.
    created_ms INTEGER NOT NULL,
    CONSTRAINT note_subject CHECK ((job_id IS NULL) <> (sweep IS NULL))
) STRICT;

CREATE INDEX note_job ON note (job_id);

-- A tag of a user on a job or a sweep (`sae-run tag`).
CREATE TABLE tag (
    -- Key; grows with time.
    tag_id INTEGER PRIMARY KEY,
    -- The job that has it; NULL for a tag of a sweep.
    job_id TEXT REFERENCES job (job_id),
    -- Name of the sweep that has it; NULL for a tag of a job.
    sweep TEXT,
    -- The tag: one word.
    tag TEXT NOT NULL,
    -- When it was given.
    created_ms INTEGER NOT NULL,
    CONSTRAINT tag_subject CHECK ((job_id IS NULL) <> (sweep IS NULL)),
    CONSTRAINT tag_of_job UNIQUE (job_id, tag),
    CONSTRAINT tag_of_sweep UNIQUE (sweep, tag)
) STRICT;

-- ---- Publications: what is on the Hugging Face Hub ----

-- One commit on the Hugging Face Hub with SAEs. It is recorded once, however often `sae-run publish` finds that
-- the Hub has all of it already.
CREATE TABLE publication (
    -- Key; grows with time.
    publication_id INTEGER PRIMARY KEY,
    -- Repository, `owner/name`.
    repo TEXT NOT NULL,
    -- Branch.
    branch TEXT NOT NULL,
    -- Commit of the branch that has all the files; 40 hex digits.
    commit_id TEXT NOT NULL,
    -- Address of the repository's page.
    page TEXT NOT NULL,
    -- Version of sae-run.
    sae_run TEXT NOT NULL,
    -- When the Hub first had all of it.
    created_ms INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX publication_commit ON publication (repo, branch, commit_id);

-- A file of a publication.
CREATE TABLE publication_file (
    -- The publication.
    publication_id INTEGER NOT NULL REFERENCES publication (publication_id),
    -- Path in the repository.
    path TEXT NOT NULL,
    -- The SAE that it is a file of; NULL for the model card and other files that are of all.
    sae_id INTEGER REFERENCES sae (sae_id),
    -- Format of the SAE, `sparsify`, `saelens`, `circuit-tracer` or `crosscoder-learning`; NULL where there is no SAE.
    layout TEXT,
    -- Size, in bytes.
    n_bytes INTEGER NOT NULL,
    -- SHA-256 in hex, by which the Hub names large files.
    sha256 TEXT NOT NULL,
    -- 1 where it was sent, 0 where the Hub had it already.
    is_new INTEGER NOT NULL,
    -- When the Hub was last seen to have the file. Of each file, not of the publication: another job of the same
    -- commit may have been trained again since.
    seen_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (publication_id, path),
    CONSTRAINT publication_file_layout
        CHECK (layout IN ('sparsify', 'saelens', 'circuit-tracer', 'crosscoder-learning')),
    CONSTRAINT publication_file_sae CHECK ((sae_id IS NULL) = (layout IS NULL)),
    CONSTRAINT publication_file_is_new CHECK (is_new IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE INDEX publication_file_sae ON publication_file (sae_id);

-- ---- Views: the ratios and lists that people ask for ----

-- The current versions of sweeps: the newest of each name; where `sae-run train` made that one, all that it made.
CREATE VIEW current_sweep AS
SELECT
    -- Key of the version.
    sweep.sweep_id AS sweep_id,
    -- Name of the sweep.
    sweep.name AS name,
    -- Counts the versions of one name from 1.
    sweep.revision AS revision
FROM sweep
JOIN sweep AS newest ON newest.name = sweep.name
    AND newest.revision = (SELECT max(other.revision) FROM sweep AS other WHERE other.name = sweep.name)
WHERE sweep.sweep_id = newest.sweep_id OR (sweep.accumulates = 1 AND newest.accumulates = 1);

-- Which jobs each sweep has: one row per sweep name and job that any of its versions asked for. The job's name
-- is that of the newest version that has it.
CREATE VIEW sweep_listing AS
SELECT
    -- Name of the sweep.
    sweep.name AS sweep,
    -- Newest version of the sweep that asks for the job.
    sweep.revision AS revision,
    -- 1 while the newest version asks for the job, 0 when the sweep was edited since. Versions that `sae-run train` made
    -- are current together.
    sweep.sweep_id IN (SELECT current_sweep.sweep_id FROM current_sweep WHERE current_sweep.name = sweep.name)
        AS is_current,
    -- Index of the job in that version, from 0.
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

-- What workers found wrong with SAEs: one row per row of `verdict` and sweep that has the job.
CREATE VIEW sae_verdict AS
SELECT
    -- Name of the sweep.
    sweep_listing.sweep AS sweep,
    -- Name of the job in the sweep.
    sweep_listing.job AS job,
    -- The job.
    sae.job_id AS job_id,
    -- The submodule whose output is reconstructed.
    sae.hookpoint AS hookpoint,
    -- Name of the SAE.
    sae.name AS sae,
    -- Optimizer updates done.
    verdict.step AS step,
    -- What is wrong, in one line.
    verdict.reason AS reason,
    -- 1 where training of the job ended because of it, else 0.
    verdict.is_fatal AS is_fatal,
    -- What the user can do about it; NULL where nothing is known.
    verdict.hint AS hint,
    -- When it was found, UTC.
    strftime('%Y-%m-%dT%H:%M:%SZ', verdict.time_ms / 1000, 'unixepoch') AS time,
    -- The same in ms since the epoch.
    verdict.time_ms AS time_ms
FROM verdict
JOIN sae USING (sae_id)
JOIN sweep_listing USING (job_id);

-- Why jobs have failed: one row per job with the status `failed` that a worker has tried.
CREATE VIEW job_failure AS
SELECT
    -- The job.
    job.job_id AS job_id,
    -- The stream whose worker it failed in.
    attempt.stream_id AS stream_id,
    -- The SAE that something was wrong with; NULL where the worker itself failed.
    sae.name AS sae,
    -- Optimizer updates done by then; NULL where the worker itself failed.
    verdict.step AS step,
    -- Why, in words; NULL where it is not known.
    coalesce(verdict.reason, attempt.reason) AS reason,
    -- The same in one line for people, with the SAE and the update where it is an SAE's fault.
    coalesce('`' || sae.name || '` at step ' || verdict.step || ': ', '')
        || coalesce(verdict.reason, attempt.reason, 'its worker ended') AS text,
    -- What the user can do about it; NULL where nothing is known.
    CASE WHEN verdict.verdict_id IS NULL THEN attempt.hint ELSE verdict.hint END AS hint,
    -- 1 where the same settings would fail again, so that a run leaves the job out unless `--retry-failed` is given:
    -- training ended because of a verdict, or a worker that had found its device refused its input. Else 0.
    verdict.verdict_id IS NOT NULL OR coalesce(attempt.failure = 'input' AND attempt.device IS NOT NULL, 0)
        AS would_fail_again
FROM job
JOIN attempt ON attempt.attempt_id = (
    SELECT max(attempt_job.attempt_id) FROM attempt_job WHERE attempt_job.job_id = job.job_id
)
LEFT JOIN verdict ON verdict.verdict_id = (
    SELECT min(fatal.verdict_id) FROM sae AS own JOIN verdict AS fatal ON fatal.sae_id = own.sae_id
    WHERE own.job_id = job.job_id AND fatal.is_fatal = 1 AND fatal.attempt_id = attempt.attempt_id
)
LEFT JOIN sae ON sae.sae_id = verdict.sae_id
WHERE job.status = 'failed';

-- How far each SAE has come; one row per SAE that has metrics.
--
-- "The end" of an SAE's training is its metric rows with 10 * step > 9 * (its last step): the last tenth of the
-- steps done so far, and at least the last row. A ratio is NULL where its denominator is 0 or one of its sums was
-- not finite.
CREATE VIEW sae_result AS
-- By attempt first: the jobs of one stream share its rows.
WITH attempt_speed AS (
    SELECT attempt_id, sum(n_tokens) AS n_tokens, sum(elapsed_ms) AS elapsed_ms
    FROM progress GROUP BY attempt_id
),
speed AS (
    SELECT
        job_id,
        sum(elapsed_ms) / 1000.0 AS training_seconds,
        1000.0 * sum(n_tokens) / nullif(sum(elapsed_ms), 0) AS tokens_per_s
    FROM attempt_job JOIN attempt_speed USING (attempt_id) GROUP BY job_id
)
SELECT
    -- The SAE.
    sae.sae_id AS sae_id,
    -- Tokens it was trained on: the sum over its metric rows.
    newest.n_tokens_so_far AS n_tokens,
    -- Optimizer updates done, by its last metric row.
    newest.step AS step,
    -- Fraction of variance unexplained over the end: squared error over total variance. sum() skips NULL,
    -- which would make a diverged run look better than it is, hence the counts.
    (
        SELECT CASE WHEN count(squared_error) = count(*) AND count(total_variance) = count(*)
            THEN sum(squared_error) / nullif(sum(total_variance), 0.0) END
        FROM metric WHERE metric.sae_id = sae.sae_id AND metric.step > 9 * newest.step / 10
    ) AS fvu,
    -- Mean number of active latents a token over the end.
    (
        SELECT CASE WHEN count(l0_sum) = count(*) THEN sum(l0_sum) / nullif(sum(n_tokens), 0) END
        FROM metric WHERE metric.sae_id = sae.sae_id AND metric.step > 9 * newest.step / 10
    ) AS l0,
    -- Dead latents at its last metric row, in percent.
    100.0 * newest.n_dead / sae.num_latents AS dead_pct,
    -- Tokens a second through the language model, over all attempts that trained the job. Jobs of one stream
    -- share that pass, so do not add them up.
    speed.tokens_per_s AS tokens_per_s,
    -- Wall time of the updates of all those attempts, in seconds. Jobs of one stream share it, too.
    speed.training_seconds AS training_seconds,
    -- Folder of the SAE's newest checkpoint; NULL before the first.
    (
        SELECT checkpoint.path || '/' || sae.name FROM checkpoint
        WHERE checkpoint.job_id = sae.job_id ORDER BY checkpoint.step DESC LIMIT 1
    ) AS checkpoint
FROM sae
-- CROSS: first the SAE, then its last row, whatever SQLite guesses about their numbers.
CROSS JOIN metric AS newest ON newest.sae_id = sae.sae_id
    AND newest.step = (SELECT max(step) FROM metric WHERE metric.sae_id = sae.sae_id)
LEFT JOIN speed ON speed.job_id = sae.job_id;

-- How each SAE does on held-out sequences: one row per SAE that was evaluated, of its newest evaluated
-- checkpoint. A ratio is NULL where its denominator is 0 or one of its sums was not finite.
CREATE VIEW sae_evaluation AS
SELECT
    -- The SAE.
    sae.sae_id AS sae_id,
    -- Optimizer updates done at the checkpoint.
    evaluation.step AS step,
    -- Evaluated tokens.
    evaluation.n_tokens AS n_tokens,
    -- Fraction of variance unexplained: squared error over total variance.
    evaluation.squared_error / nullif(evaluation.total_variance, 0.0) AS fvu,
    -- Mean number of active latents a token.
    evaluation.l0_sum / nullif(evaluation.n_tokens, 0) AS l0,
    -- Latents that were active on no evaluated token, in percent.
    100.0 * evaluation.n_dead / sae.num_latents AS dead_pct,
    -- Cross-entropy of the next token by the model as it is, in nats a token.
    evaluation.ce_clean_sum / nullif(evaluation.n_predicted, 0) AS ce_clean,
    -- The same with the SAE's output in place of the hookpoint's.
    evaluation.ce_spliced_sum / nullif(evaluation.n_predicted, 0) AS ce_spliced,
    -- The same with the mean of the hookpoint's output in its place.
    evaluation.ce_ablated_sum / nullif(evaluation.n_predicted, 0) AS ce_ablated,
    -- Share of what ablation costs that the SAE recovers: (ablated - spliced) / (ablated - clean); NULL where ablation
    -- costs less than 0.01 nats a token.
    CASE
        WHEN evaluation.ce_ablated_sum - evaluation.ce_clean_sum >= 0.01 * evaluation.n_predicted
            THEN (evaluation.ce_ablated_sum - evaluation.ce_spliced_sum)
                / nullif(evaluation.ce_ablated_sum - evaluation.ce_clean_sum, 0.0)
    END AS ce_recovered,
    -- Divergence KL(clean || spliced) of the distributions of the next token, in nats a token.
    evaluation.kl_sum / nullif(evaluation.n_predicted, 0) AS kl,
    -- File with the firing density of each latent.
    evaluation.density AS density
FROM evaluation
JOIN sae USING (sae_id)
WHERE evaluation.step = (
    SELECT max(newest.step) FROM evaluation AS newest WHERE newest.sae_id = evaluation.sae_id
);

-- How the threshold of each SAE was calibrated: one row per SAE that was, of its newest calibrated checkpoint.
CREATE VIEW sae_calibration AS
SELECT
    -- The SAE.
    calibration.sae_id AS sae_id,
    -- Optimizer updates done at the checkpoint.
    calibration.step AS step,
    -- Held-out tokens that the threshold was found on.
    calibration.n_tokens AS n_tokens,
    -- Mean number of active latents a token that was wanted.
    calibration.k AS k,
    -- The threshold that was found, and that the checkpoint has.
    calibration.threshold AS threshold,
    -- Mean number of active latents a token with it.
    calibration.l0 AS l0,
    -- Threshold that training estimated.
    calibration.threshold_ema AS threshold_ema,
    -- Mean number of active latents a token with that one.
    calibration.l0_ema AS l0_ema,
    -- Thresholds of hookpoints, if each has its own; JSON array.
    calibration.hookpoint_thresholds AS hookpoint_thresholds
FROM calibration
WHERE calibration.step = (
    SELECT max(newest.step) FROM calibration AS newest WHERE newest.sae_id = calibration.sae_id
);

-- Results: one row per SAE of each job of each sweep, for jobs that have metrics. The columns from `n_tokens` on
-- are those of `sae_result`, `sae_calibration` and `sae_evaluation`, which define them. Those of `sae_calibration`
-- are NULL where no threshold was calibrated, those of `sae_evaluation` where nothing was evaluated.
CREATE VIEW result AS
SELECT
    -- Name of the sweep.
    sweep_listing.sweep AS sweep,
    -- 1 while the sweep's newest version asks for the job, 0 when it was edited since.
    sweep_listing.is_current AS is_current,
    -- Index of the job in the sweep, from 0.
    sweep_listing.ordinal AS ordinal,
    -- Name of the job in the sweep.
    sweep_listing.job AS job,
    -- The job.
    job.job_id AS job_id,
    -- Status of the job: queued, running, done, failed, interrupted, stopped.
    job.status AS status,
    -- The job that it continued from; NULL if it was trained from the start.
    (SELECT extension.base_job_id FROM extension WHERE extension.job_id = job.job_id) AS extends,
    -- Why the job failed, `text` of `job_failure`; NULL where it did not fail.
    (SELECT job_failure.text FROM job_failure WHERE job_failure.job_id = job.job_id) AS failure,
    -- Tags of the job, in the order of the alphabet, with spaces between; NULL without one.
    (
        SELECT group_concat(given.tag, ' ') FROM (
            SELECT tag.tag FROM tag WHERE tag.job_id = job.job_id ORDER BY tag.tag
        ) AS given
    ) AS tags,
    -- The newest note on the job; NULL without one.
    (SELECT note.text FROM note WHERE note.job_id = job.job_id ORDER BY note.note_id DESC LIMIT 1) AS note,
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
    -- Name or folder of the language model.
    job.model AS model,
    -- Digest of the model's files, or of both models'; SAEs of others cannot be compared.
    job.models AS models,
    -- Kind of SAE: the activation, after `matryoshka` or `hierarchical` if it is nested, and before that `transcoder`,
    -- `cross-layer` or `crosscoder`.
    job.kind AS kind,
    -- Latents that may be active on a token; on average with `batchtopk`, without effect with `relu`, `gated` and
    -- `jumprelu`.
    sae.k AS k,
    -- Latents per input dimension.
    1.0 * sae.num_latents / sae.d_in AS expansion_factor,
    -- Number of latents.
    sae.num_latents AS num_latents,
    -- Learning rate.
    sae.lr AS lr,
    -- Tokens of an optimizer update, of all processes together.
    json_extract(job.config, '$.tokens_per_update') AS tokens_per_update,
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
    -- Calibrated threshold, which the checkpoint has.
    sae_calibration.threshold AS threshold,
    -- Mean number of active latents a held-out token with the calibrated threshold.
    sae_calibration.l0 AS l0_calibrated,
    -- Threshold that training estimated.
    sae_calibration.threshold_ema AS threshold_ema,
    -- Mean number of active latents a held-out token with that threshold.
    sae_calibration.l0_ema AS l0_ema,
    -- Fraction of variance unexplained on held-out sequences.
    sae_evaluation.fvu AS fvu_eval,
    -- Mean number of active latents a token on held-out sequences.
    sae_evaluation.l0 AS l0_eval,
    -- Latents that fired on no held-out token, in percent.
    sae_evaluation.dead_pct AS dead_pct_eval,
    -- Cross-entropy of the next token on held-out sequences by the model as it is, in nats a token.
    sae_evaluation.ce_clean AS ce_clean,
    -- The same with the SAE's output in place of the hookpoint's.
    sae_evaluation.ce_spliced AS ce_spliced,
    -- Share of the cross-entropy that mean ablation costs which the SAE recovers; NULL where it costs next to nothing.
    sae_evaluation.ce_recovered AS ce_recovered,
    -- Divergence of the spliced model's predictions from the clean one's, in nats a token.
    sae_evaluation.kl AS kl,
    -- Tokens a second through the language model.
    sae_result.tokens_per_s AS tokens_per_s,
    -- Wall time of the updates of all attempts that trained the job, in seconds.
    sae_result.training_seconds AS training_seconds,
    -- Folder of the SAE's newest checkpoint.
    sae_result.checkpoint AS checkpoint,
    -- Repository where it was last published as it is now; NULL where it was not.
    (
        SELECT publication.repo FROM publication_file JOIN publication USING (publication_id)
        WHERE publication_file.sae_id = sae.sae_id
            AND publication_file.seen_ms >= coalesce(job.done_ms, 0)
        ORDER BY publication_file.seen_ms DESC, publication_id DESC LIMIT 1
    ) AS repo,
    -- When the job was first planned, UTC.
    strftime('%Y-%m-%dT%H:%M:%SZ', job.created_ms / 1000, 'unixepoch') AS created,
    -- When it was done, UTC; NULL before.
    strftime('%Y-%m-%dT%H:%M:%SZ', job.done_ms / 1000, 'unixepoch') AS done
FROM sweep_listing
JOIN job USING (job_id)
JOIN sae USING (job_id)
JOIN sae_result USING (sae_id)
LEFT JOIN sae_calibration USING (sae_id)
LEFT JOIN sae_evaluation USING (sae_id);

-- How the training of each SAE went: one row per metric row. The ratios are over the row's own interval, and NULL where
-- the denominator is 0 or a sum was not finite.
CREATE VIEW sae_curve AS
SELECT
    -- The SAE.
    sae.sae_id AS sae_id,
    -- Optimizer updates done.
    metric.step AS step,
    -- Tokens trained on from the start up to here.
    metric.n_tokens_so_far AS n_tokens,
    -- Fraction of variance unexplained.
    metric.squared_error / nullif(metric.total_variance, 0.0) AS fvu,
    -- Mean number of active latents a token.
    metric.l0_sum / nullif(metric.n_tokens, 0) AS l0,
    -- Dead latents at the end of the interval, in percent.
    100.0 * metric.n_dead / sae.num_latents AS dead_pct,
    -- Loss of the dead latents' prediction (AuxK), without its weight; NULL where it is not used.
    metric_term.auxk_sum / nullif(metric.total_variance, 0.0) AS auxk,
    -- Fraction of variance that 4 * k latents leave unexplained; NULL where it is not used.
    metric_term.multi_topk_sum / nullif(metric.total_variance, 0.0) AS multi_topk_fvu,
    -- Mean loss on the model's output, cross-entropy or KL divergence, in nats; NULL where the FVU
    -- is what is minimised.
    metric_term.output_loss_sum / nullif(metric_term.n_output, 0) AS output_loss,
    -- Sparsity penalty with its coefficient, in the unit of `fvu`; NULL where there is no penalty.
    metric_term.sparsity_sum / nullif(metric.total_variance, 0.0) AS sparsity,
    -- When it was reported, UTC.
    strftime('%Y-%m-%dT%H:%M:%SZ', metric.time_ms / 1000, 'unixepoch') AS time,
    -- The same in ms since the epoch.
    metric.time_ms AS time_ms
FROM metric
JOIN sae USING (sae_id)
LEFT JOIN metric_term ON metric_term.sae_id = metric.sae_id AND metric_term.step = metric.step;

-- How training went: the rows of `sae_curve`, which defines the numbers, for each job of each sweep.
CREATE VIEW curve AS
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
    sae_curve.step AS step,
    -- Tokens trained on from the start up to here.
    sae_curve.n_tokens AS n_tokens,
    -- Fraction of variance unexplained.
    sae_curve.fvu AS fvu,
    -- Mean number of active latents a token.
    sae_curve.l0 AS l0,
    -- Dead latents at the end of the interval, in percent.
    sae_curve.dead_pct AS dead_pct,
    -- Loss of the dead latents' prediction (AuxK), without its weight; NULL where it is not used.
    sae_curve.auxk AS auxk,
    -- Fraction of variance that 4 * k latents leave unexplained; NULL where it is not used.
    sae_curve.multi_topk_fvu AS multi_topk_fvu,
    -- Mean loss on the model's output, cross-entropy or KL divergence, in nats; NULL where the FVU
    -- is what is minimised.
    sae_curve.output_loss AS output_loss,
    -- Sparsity penalty with its coefficient, in the unit of `fvu`; NULL where there is no penalty.
    sae_curve.sparsity AS sparsity,
    -- When it was reported, UTC.
    sae_curve.time AS time,
    -- The same in ms since the epoch.
    sae_curve.time_ms AS time_ms
FROM sae_curve
JOIN sae USING (sae_id)
JOIN sweep_listing USING (job_id);

-- The best SAEs of each hookpoint: those for which no other of the same sweep, model and hookpoint is as good in both
-- L0 and FVU, and better in one. Only jobs that the newest version of a sweep asks for.
CREATE VIEW frontier AS
WITH point AS (
    SELECT *, coalesce(l0_eval, l0) AS point_l0, coalesce(fvu_eval, fvu) AS point_fvu
    FROM result WHERE is_current
)
SELECT
    -- Name of the sweep.
    point.sweep AS sweep,
    -- Name or folder of the language model.
    point.model AS model,
    -- The submodule.
    point.hookpoint AS hookpoint,
    -- Mean number of active latents a token; on held-out sequences where it was evaluated.
    point.point_l0 AS l0,
    -- Fraction of variance unexplained; likewise.
    point.point_fvu AS fvu,
    -- Kind of SAE.
    point.kind AS kind,
    -- Latents that may be active on a token.
    point.k AS k,
    -- Number of latents.
    point.num_latents AS num_latents,
    -- Name of the job in the sweep.
    point.job AS job,
    -- The job.
    point.job_id AS job_id,
    -- Name of the SAE.
    point.sae AS sae,
    -- Folder of its newest checkpoint.
    point.checkpoint AS checkpoint
FROM point
WHERE point.point_l0 IS NOT NULL AND point.point_fvu IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM point AS other
    WHERE other.sweep = point.sweep AND other.models = point.models AND other.hookpoint = point.hookpoint
        AND other.point_l0 <= point.point_l0 AND other.point_fvu <= point.point_fvu
        AND (other.point_l0 < point.point_l0 OR other.point_fvu < point.point_fvu)
)
ORDER BY point.sweep, point.models, point.hookpoint, point.point_l0;

-- Kinds of SAEs at equal L0: one row per SAE and other kind that the same sweep has at the model's hookpoint with the
-- same number of latents. Only jobs that the newest version of a sweep asks for, and only where the other kind has SAEs
-- on both sides of the SAE's L0, or one within 2 % of it.
--
-- Of the other kind only those SAEs count that no other of that kind beats, as in `frontier`. Between the two nearest,
-- with L0 a and b, the value at L0 x is interpolated with the share (x - a) (b + a) / ((x + a) (b - a)). It is close
-- to ln(x / a) / ln(b / a), and every SQLite can compute it.
CREATE VIEW kind_comparison AS
WITH point AS (
    SELECT *, coalesce(l0_eval, l0) AS x, coalesce(fvu_eval, fvu) AS y
    FROM result
    WHERE is_current AND coalesce(l0_eval, l0) > 0 AND coalesce(fvu_eval, fvu) IS NOT NULL
),
-- In one pass each, since to compare each SAE with each takes long.
ranked AS (
    SELECT *, min(y) OVER (
        PARTITION BY sweep, models, hookpoint, num_latents, kind ORDER BY x, y, ordinal, sae_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS least
    FROM point
),
best AS (
    SELECT sweep, models, hookpoint, num_latents, kind, x, y, ce_recovered FROM ranked WHERE least IS NULL OR y < least
),
of_group AS (
    SELECT DISTINCT sweep, models, hookpoint, num_latents, kind AS other_kind FROM point
),
-- The L0 of the nearest SAEs of each kind on both sides of each SAE, with rows for those of that kind too.
around AS (
    SELECT
        point.*,
        of_group.other_kind,
        max(best.x) OVER (along RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS x0,
        min(best.x) OVER (along GROUPS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS x1
    FROM point
    JOIN of_group USING (sweep, models, hookpoint, num_latents)
    LEFT JOIN best ON point.kind = of_group.other_kind AND best.sweep = point.sweep
        AND best.models = point.models AND best.hookpoint = point.hookpoint AND best.num_latents = point.num_latents
        AND best.kind = point.kind AND best.x = point.x
    WINDOW along AS (
        PARTITION BY point.sweep, point.models, point.hookpoint, point.num_latents, of_group.other_kind
        ORDER BY point.x
    )
),
near AS (
    SELECT
        *,
        coalesce(x0, CASE WHEN x1 <= 1.02 * x THEN x1 END) AS a,
        coalesce(x1, CASE WHEN x <= 1.02 * x0 THEN x0 END) AS b
    FROM around
    WHERE kind <> other_kind
)
SELECT
    -- Name of the sweep.
    near.sweep AS sweep,
    -- Name or folder of the language model.
    near.model AS model,
    -- Digest of the model's files, or of both models'.
    near.models AS models,
    -- The submodule.
    near.hookpoint AS hookpoint,
    -- Number of latents.
    near.num_latents AS num_latents,
    -- Name of the job in the sweep.
    near.job AS job,
    -- The job.
    near.job_id AS job_id,
    -- Name of the SAE.
    near.sae AS sae,
    -- Key of the SAE.
    near.sae_id AS sae_id,
    -- Kind of the SAE.
    near.kind AS kind,
    -- Mean number of active latents a token; on held-out sequences where it was evaluated.
    near.x AS l0,
    -- Fraction of variance unexplained; likewise.
    near.y AS fvu,
    -- Share of the cross-entropy that mean ablation costs which the SAE recovers.
    near.ce_recovered AS ce_recovered,
    -- The other kind.
    near.other_kind AS other_kind,
    -- What the other kind leaves unexplained at this L0.
    lower.y + (upper.y - lower.y) * coalesce(
        (near.x - near.a) * (near.b + near.a) / ((near.x + near.a) * (near.b - near.a)), 0.0
    ) AS other_fvu,
    -- What the other kind recovers of the cross-entropy at this L0.
    lower.ce_recovered + (upper.ce_recovered - lower.ce_recovered) * coalesce(
        (near.x - near.a) * (near.b + near.a) / ((near.x + near.a) * (near.b - near.a)), 0.0
    ) AS other_ce_recovered
FROM near
JOIN best AS lower ON lower.sweep = near.sweep AND lower.models = near.models AND lower.hookpoint = near.hookpoint
    AND lower.num_latents = near.num_latents AND lower.kind = near.other_kind AND lower.x = near.a
JOIN best AS upper ON upper.sweep = near.sweep AND upper.models = near.models AND upper.hookpoint = near.hookpoint
    AND upper.num_latents = near.num_latents AND upper.kind = near.other_kind AND upper.x = near.b
ORDER BY near.sweep, near.models, near.hookpoint, near.num_latents, near.x, near.ordinal, near.sae_id, near.other_kind;

-- What ran where and for how long: one row per attempt.
CREATE VIEW timeline AS
SELECT
    -- The stream.
    attempt.stream_id AS stream_id,
    -- Counts the attempts at this stream from 1.
    attempt.number AS number,
    -- Status: running, done, failed, interrupted, crashed.
    attempt.status AS status,
    -- Host of the worker.
    attempt.host AS host,
    -- Device it trained on.
    attempt.device AS device,
    -- When it was started, UTC.
    strftime('%Y-%m-%dT%H:%M:%SZ', attempt.started_ms / 1000, 'unixepoch') AS started,
    -- When it ended, UTC; NULL while it runs.
    strftime('%Y-%m-%dT%H:%M:%SZ', attempt.ended_ms / 1000, 'unixepoch') AS ended,
    -- How long it took until it ended, in seconds; NULL while it runs.
    (attempt.ended_ms - attempt.started_ms) / 1000.0 AS seconds,
    -- Optimizer updates done before it.
    attempt.first_step AS first_step,
    -- Optimizer updates done by its last report.
    (SELECT max(step) FROM progress WHERE progress.attempt_id = attempt.attempt_id) AS last_step,
    -- Jobs it trained.
    (SELECT count(*) FROM attempt_job WHERE attempt_job.attempt_id = attempt.attempt_id) AS n_jobs,
    -- Tokens a second through the language model.
    (
        SELECT 1000.0 * sum(n_tokens) / nullif(sum(elapsed_ms), 0) FROM progress
        WHERE progress.attempt_id = attempt.attempt_id
    ) AS tokens_per_s,
    -- Why it ended, in words; NULL for a good end.
    attempt.reason AS reason
FROM attempt
ORDER BY attempt.started_ms;

-- What each job was made from: one row per job of a version of a sweep.
CREATE VIEW provenance AS
SELECT
    -- Name of the sweep.
    sweep.name AS sweep,
    -- Version of the sweep, from 1.
    sweep.revision AS revision,
    -- When that version was first run, UTC.
    strftime('%Y-%m-%dT%H:%M:%SZ', sweep.created_ms / 1000, 'unixepoch') AS created,
    -- Name of the job in it.
    sweep_job.name AS job,
    -- The job.
    job.job_id AS job_id,
    -- The sweep file as the user wrote it.
    sweep.text AS sweep_text,
    -- Name or path of the recipe.
    sweep.recipe AS recipe,
    -- Digest of the recipe.
    sweep.recipe_digest AS recipe_digest,
    -- Its text; NULL for a component.
    recipe.source AS recipe_source,
    -- Digest of what the recipe was asked first.
    sweep.request_digest AS request_digest,
    -- Version of sae-run that first ran this version of the sweep.
    sweep_origin.sae_run AS sae_run,
    -- Commit of the checkout that the sweep file lies in.
    sweep_origin.git_commit AS git_commit,
    -- Version of libtorch of the last attempt that trained the job.
    attempt.libtorch AS libtorch,
    -- Device of that attempt.
    attempt.device AS device,
    -- Host of that attempt.
    attempt.host AS host,
    -- Name or folder of the language model.
    job.model AS model,
    -- Digest of the model's files.
    job.model_digest AS model_digest,
    -- Digest of the files of a crosscoder's second model; NULL: there is one model.
    job.second_model_digest AS second_model_digest,
    -- File, folder or id of the data set.
    job.dataset AS dataset,
    -- Digest of the token data.
    job.token_digest AS token_digest,
    -- Version of the trainer's semantics.
    job.trainer_version AS trainer_version,
    -- All settings, resolved; JSON.
    job.config AS config
FROM sweep_job
JOIN sweep USING (sweep_id)
JOIN job USING (job_id)
LEFT JOIN recipe ON recipe.recipe_digest = sweep.recipe_digest
LEFT JOIN sweep_origin ON sweep_origin.sweep_id = sweep.sweep_id
LEFT JOIN attempt ON attempt.attempt_id = (
    SELECT max(attempt_job.attempt_id) FROM attempt_job WHERE attempt_job.job_id = job.job_id
);
