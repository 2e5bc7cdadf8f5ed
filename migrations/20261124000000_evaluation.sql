-- Held-out evaluation. The conventions are those of the first migration.

-- Sufficient statistics of one checkpoint of an SAE over the held-out sequences of its job. A sum that
-- was not finite is NULL, and so is every ratio made of it. Excluded tokens count in no sum.
CREATE TABLE evaluation (
    -- The SAE.
    sae_id INTEGER NOT NULL REFERENCES sae (sae_id),
    -- Optimizer updates behind the checkpoint.
    step INTEGER NOT NULL,
    -- The attempt that evaluated it; NULL where `sae-run eval` did. Evaluating again replaces the row.
    attempt_id INTEGER REFERENCES attempt (attempt_id),
    -- Tokens that the sums over activations run over.
    n_tokens INTEGER NOT NULL,
    -- Sum over tokens of |sae_out - y|^2, y being the hookpoint's output.
    squared_error REAL,
    -- Sum over tokens of |y - mean(y)|^2, the mean being that of all evaluated tokens.
    total_variance REAL,
    -- Sum over tokens of the number of latents with activation > 0.
    l0_sum REAL,
    -- Latents that fired on no evaluated token.
    n_dead INTEGER NOT NULL,
    -- Positions with a next token, which the sums over predictions run over.
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

-- What is done stays done, unless all that it left here is deleted first (`--fresh`); evaluations are
-- part of that.
DROP TRIGGER job_status_transition;
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
        AND NOT EXISTS (
            SELECT 1 FROM evaluation JOIN sae USING (sae_id) WHERE sae.job_id = OLD.job_id
        )
    )
)
BEGIN
    SELECT RAISE(ABORT, 'job_status_transition');
END;

-- How each SAE does on held-out sequences: one row per SAE that was evaluated, of its newest evaluated
-- checkpoint. A ratio is NULL where its denominator is 0 or one of its sums was not finite.
CREATE VIEW sae_evaluation AS
SELECT
    -- The SAE.
    sae.sae_id AS sae_id,
    -- Optimizer updates behind the checkpoint.
    evaluation.step AS step,
    -- Evaluated tokens.
    evaluation.n_tokens AS n_tokens,
    -- Fraction of variance unexplained: squared error over total variance.
    evaluation.squared_error / nullif(evaluation.total_variance, 0.0) AS fvu,
    -- Mean number of active latents a token.
    evaluation.l0_sum / nullif(evaluation.n_tokens, 0) AS l0,
    -- Latents that fired on no evaluated token, in percent.
    100.0 * evaluation.n_dead / sae.num_latents AS dead_pct,
    -- Cross-entropy of the next token by the model as it is, in nats a token.
    evaluation.ce_clean_sum / nullif(evaluation.n_predicted, 0) AS ce_clean,
    -- The same with the SAE's output in place of the hookpoint's.
    evaluation.ce_spliced_sum / nullif(evaluation.n_predicted, 0) AS ce_spliced,
    -- The same with the mean of the hookpoint's output in its place.
    evaluation.ce_ablated_sum / nullif(evaluation.n_predicted, 0) AS ce_ablated,
    -- Share of what ablation costs that the SAE recovers: (ablated - spliced) / (ablated - clean).
    (evaluation.ce_ablated_sum - evaluation.ce_spliced_sum)
        / nullif(evaluation.ce_ablated_sum - evaluation.ce_clean_sum, 0.0) AS ce_recovered,
    -- Divergence KL(clean || spliced) of the distributions of the next token, in nats a token.
    evaluation.kl_sum / nullif(evaluation.n_predicted, 0) AS kl,
    -- File with the firing density of each latent.
    evaluation.density AS density
FROM evaluation
JOIN sae USING (sae_id)
WHERE evaluation.step = (
    SELECT max(newest.step) FROM evaluation AS newest WHERE newest.sae_id = evaluation.sae_id
);

-- What came out: one row per SAE of each job of each sweep, for jobs that have metrics. The columns
-- from `n_tokens` on are those of `sae_result` and `sae_evaluation`, which define them; the latter's
-- are NULL where nothing was evaluated.
DROP VIEW result;
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
    -- Share of the cross-entropy that mean ablation costs which the SAE recovers.
    sae_evaluation.ce_recovered AS ce_recovered,
    -- Divergence of the spliced model's predictions from the clean one's, in nats a token.
    sae_evaluation.kl AS kl,
    -- Tokens a second through the language model.
    sae_result.tokens_per_s AS tokens_per_s,
    -- Folder of the SAE's newest checkpoint.
    sae_result.checkpoint AS checkpoint
FROM sweep_listing
JOIN job USING (job_id)
JOIN sae USING (job_id)
JOIN sae_result USING (sae_id)
LEFT JOIN sae_evaluation USING (sae_id);
