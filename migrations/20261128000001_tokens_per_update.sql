-- How many tokens an optimizer update takes decides on the result, and so does the number of processes where it is
-- not given. It is part of a job's settings, and of its id.

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
    -- Tokens of an optimizer update, of all processes together; NULL for a job of an earlier version.
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
    sae_result.checkpoint AS checkpoint,
    -- Where it was published last, in the state of training that it has now; NULL where it was not.
    (
        SELECT publication.repo FROM publication_file JOIN publication USING (publication_id)
        WHERE publication_file.sae_id = sae.sae_id
            AND publication_file.seen_ms >= coalesce(job.done_ms, 0)
        ORDER BY publication_file.seen_ms DESC, publication_id DESC LIMIT 1
    ) AS repo
FROM sweep_listing
JOIN job USING (job_id)
JOIN sae USING (job_id)
JOIN sae_result USING (sae_id)
LEFT JOIN sae_evaluation USING (sae_id);
