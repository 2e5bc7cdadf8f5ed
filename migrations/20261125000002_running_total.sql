-- A running total in each metric row, so that what views say of one SAE is found without reading all rows of
-- all SAEs: `result` needs the last tenth of each, `curve` those that are asked for.

-- Tokens trained on from the start to the end of the interval: the sum of `n_tokens` up to this row.
ALTER TABLE metric ADD COLUMN n_tokens_so_far INTEGER NOT NULL DEFAULT 0;

UPDATE metric SET n_tokens_so_far = total.n_tokens
FROM (
    SELECT sae_id, step, sum(n_tokens) OVER (PARTITION BY sae_id ORDER BY step) AS n_tokens FROM metric
) AS total
WHERE total.sae_id = metric.sae_id AND total.step = metric.step;

-- How far each SAE has come; one row per SAE that has metrics.
--
-- "The end" of an SAE's training are its metric rows with 10 * step > 9 * (its last step), that is
-- the last tenth of the steps done so far and at least the last row. A ratio is NULL where its
-- denominator is 0 or one of its sums was not finite.
DROP VIEW sae_result;
CREATE VIEW sae_result AS
-- First by attempt: the jobs of one stream share its rows.
WITH attempt_speed AS (
    SELECT attempt_id, sum(n_tokens) AS n_tokens, sum(elapsed_ms) AS elapsed_ms
    FROM progress GROUP BY attempt_id
),
speed AS (
    SELECT job_id, 1000.0 * sum(n_tokens) / nullif(sum(elapsed_ms), 0) AS tokens_per_s
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
    -- Tokens a second through the language model, over all attempts that trained the job; jobs of
    -- one stream share that pass, so do not add them up.
    speed.tokens_per_s AS tokens_per_s,
    -- Folder of the SAE's newest checkpoint; NULL before the first.
    (
        SELECT checkpoint.path || '/' || sae.name FROM checkpoint
        WHERE checkpoint.job_id = sae.job_id ORDER BY checkpoint.step DESC LIMIT 1
    ) AS checkpoint
FROM sae
-- CROSS: first the SAE, then its last row, whatever SQLite guesses of their numbers.
CROSS JOIN metric AS newest ON newest.sae_id = sae.sae_id
    AND newest.step = (SELECT max(step) FROM metric WHERE metric.sae_id = sae.sae_id)
LEFT JOIN speed ON speed.job_id = sae.job_id;

DROP VIEW curve;

-- How training went: one row per metric row of each SAE of each job of each sweep. The ratios are
-- over the row's own interval, and NULL where the denominator is 0 or a sum was not finite.
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
    -- When it was reported.
    metric.time_ms AS time_ms
FROM metric
JOIN sae USING (sae_id)
JOIN sweep_listing USING (job_id)
LEFT JOIN metric_term ON metric_term.sae_id = metric.sae_id AND metric_term.step = metric.step;

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
    -- Where the job stands: queued, running, done, failed, interrupted, stopped.
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
