-- What training reports beside the squared error: further terms of the loss, what is wrong with an
-- SAE, and remarks of a worker.

-- Sums of one interval for the terms that a loss may have besides; only rows with such a term.
CREATE TABLE metric_term (
    -- The SAE.
    sae_id INTEGER NOT NULL,
    -- Optimizer updates done at the end of the interval.
    step INTEGER NOT NULL,
    -- Sum over steps of the squared error of the dead latents' prediction, scaled as in the loss
    -- (AuxK); NULL where it was not finite, as in `metric`.
    auxk_sum REAL,
    -- Sum over tokens of the squared error of 4 * k latents (Multi-TopK).
    multi_topk_sum REAL,
    -- Sum over positions of the loss on the model's output, cross-entropy or KL divergence, in nats.
    output_loss_sum REAL,
    -- Positions of that sum.
    n_output INTEGER NOT NULL,
    PRIMARY KEY (sae_id, step),
    CONSTRAINT metric_term_metric
        FOREIGN KEY (sae_id, step) REFERENCES metric (sae_id, step) ON DELETE CASCADE
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
    -- 1 where the job was trained no further, else 0.
    is_fatal INTEGER NOT NULL,
    -- When it was found.
    time_ms INTEGER NOT NULL,
    CONSTRAINT verdict_is_fatal CHECK (is_fatal IN (0, 1))
) STRICT;

CREATE INDEX verdict_sae ON verdict (sae_id);

-- What a worker remarked that is no error: bad rows left out, batches cut into smaller parts.
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

DROP VIEW curve;

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
    -- Loss of the dead latents' prediction (AuxK), without its weight; NULL where it is not used.
    metric_term.auxk_sum / nullif(counted.total_variance, 0.0) AS auxk,
    -- Fraction of variance that 4 * k latents leave unexplained; NULL where it is not used.
    metric_term.multi_topk_sum / nullif(counted.total_variance, 0.0) AS multi_topk_fvu,
    -- Mean loss on the model's output, cross-entropy or KL divergence, in nats; NULL where the FVU
    -- is what is minimised.
    metric_term.output_loss_sum / nullif(metric_term.n_output, 0) AS output_loss,
    -- When it was reported.
    counted.time_ms AS time_ms
FROM counted
JOIN sae USING (sae_id)
JOIN sweep_listing USING (job_id)
LEFT JOIN metric_term ON metric_term.sae_id = counted.sae_id AND metric_term.step = counted.step;
