-- The rounds of a recipe. A recipe may ask to be called again with the results of its jobs; what it was
-- asked and what it answered is kept, so that a resumed sweep goes on from the same answers.
CREATE TABLE round (
    -- The version of the sweep.
    sweep_id INTEGER NOT NULL REFERENCES sweep (sweep_id),
    -- Counts from 0.
    number INTEGER NOT NULL,
    -- What the recipe was asked: sweep, model and the results so far; JSON object.
    request TEXT NOT NULL,
    -- Digest of `request`, as the recipe got it.
    request_digest TEXT NOT NULL,
    -- What it answered: jobs, and whether it is done; JSON object.
    response TEXT NOT NULL,
    -- Place of its first job among the sweep's, `sweep_job.ordinal`; those before are of earlier rounds.
    first_ordinal INTEGER NOT NULL,
    -- What the call cost, in wasmtime's fuel (about one unit an instruction).
    fuel INTEGER NOT NULL,
    -- When it was first asked.
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (sweep_id, number),
    CONSTRAINT round_request CHECK (json_valid(request)),
    CONSTRAINT round_response CHECK (json_valid(response))
) STRICT, WITHOUT ROWID;
