-- Where sweeps come from, and views of what came out.

-- Source of each recipe that a sweep was planned with.
CREATE TABLE recipe (
    -- Digest of the source or component, as in `sweep`.
    recipe_digest TEXT PRIMARY KEY NOT NULL,
    -- Text of a recipe in Python; NULL for a component.
    source TEXT
) STRICT, WITHOUT ROWID;

-- What a version of a sweep was first run with.
CREATE TABLE sweep_origin (
    -- The version of the sweep.
    sweep_id INTEGER PRIMARY KEY NOT NULL REFERENCES sweep (sweep_id),
    -- Version of sae-run.
    sae_run TEXT NOT NULL,
    -- Commit of the git checkout that the sweep file lies in, with `-dirty` behind it where files had
    -- been changed since; NULL outside of one.
    git_commit TEXT
) STRICT;

-- The best of each hookpoint: SAEs of current sweeps to which no other of the same sweep and hookpoint
-- is equal or better in both L0 and FVU.
CREATE VIEW frontier AS
WITH point AS (
    SELECT *, coalesce(l0_eval, l0) AS point_l0, coalesce(fvu_eval, fvu) AS point_fvu
    FROM result WHERE is_current
)
SELECT
    -- Name of the sweep.
    point.sweep AS sweep,
    -- The submodule.
    point.hookpoint AS hookpoint,
    -- Mean number of active latents a token; on held-out sequences where it was evaluated.
    point.point_l0 AS l0,
    -- Fraction of variance unexplained; likewise.
    point.point_fvu AS fvu,
    -- Latents a token may use.
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
    WHERE other.sweep = point.sweep AND other.hookpoint = point.hookpoint
        AND other.point_l0 <= point.point_l0 AND other.point_fvu <= point.point_fvu
        AND (other.point_l0 < point.point_l0 OR other.point_fvu < point.point_fvu)
)
ORDER BY point.sweep, point.hookpoint, point.point_l0;

-- What was tried, where and for how long: one row per attempt.
CREATE VIEW timeline AS
SELECT
    -- The stream.
    attempt.stream_id AS stream_id,
    -- Counts the tries at this stream from 1.
    attempt.number AS number,
    -- How it ended: running, done, failed, interrupted, crashed.
    attempt.status AS status,
    -- Host of the worker.
    attempt.host AS host,
    -- Device it trained on.
    attempt.device AS device,
    -- When it was started, UTC.
    strftime('%Y-%m-%d %H:%M:%S', attempt.started_ms / 1000, 'unixepoch') AS started,
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

-- What each job of each sweep was made of: one row per job of a version of a sweep.
CREATE VIEW provenance AS
SELECT
    -- Name of the sweep.
    sweep.name AS sweep,
    -- Version of the sweep, from 1.
    sweep.revision AS revision,
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
