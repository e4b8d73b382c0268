"""The ledger's tables. Times are seconds since 1970 UTC; documents are Signed messages, as sent or received."""

VERSION = 5

TABLES = """
CREATE TABLE jobs (
    job_id BLOB PRIMARY KEY,            -- 16 bytes
    agreement_digest TEXT NOT NULL,
    number INTEGER NOT NULL,
    merchant TEXT NOT NULL,
    organisation TEXT NOT NULL,         -- the merchant's
    dataset TEXT NOT NULL,              -- table name
    dataset_version TEXT NOT NULL,
    plan_digest TEXT NOT NULL,
    cells INTEGER NOT NULL,             -- debited when the job was approved, and never given back
    manifest BLOB NOT NULL,
    approved_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (agreement_digest, number)   -- a manifest's number is one job, for ever
) STRICT;
CREATE INDEX jobs_by_day ON jobs (merchant, approved_at);
CREATE TABLE answers (
    job_id BLOB NOT NULL REFERENCES jobs (job_id),
    attempt INTEGER NOT NULL,
    approval BLOB NOT NULL,
    mask_secret BLOB,                   -- sealed; NULL once the job has ended
    PRIMARY KEY (job_id, attempt)
) STRICT;
CREATE TABLE payloads (
    job_id BLOB NOT NULL,
    attempt INTEGER NOT NULL,
    stage TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    context_digest TEXT NOT NULL,
    holders TEXT NOT NULL,              -- the set, names separated by commas
    submission BLOB NOT NULL,
    ciphertexts BLOB,                   -- as sent, the words of a share of the gate too; NULL once the job has ended
    salt BLOB NOT NULL,                 -- sealed; opens the submission's commitment to an auditor on site
    stored_at INTEGER NOT NULL,
    PRIMARY KEY (job_id, attempt, stage, iteration),
    FOREIGN KEY (job_id, attempt) REFERENCES answers (job_id, attempt)
) STRICT;
CREATE TABLE charges (                  -- what jobs cost; no row ever changes or goes away
    job_id BLOB PRIMARY KEY,
    dataset TEXT NOT NULL,
    merchant TEXT NOT NULL,
    organisation TEXT NOT NULL,
    rho INTEGER NOT NULL,               -- millionths; 0 also for what was asked and paid for before
    sticky TEXT NOT NULL,               -- the question, its noise, and the versions at all holders
    exact INTEGER NOT NULL,             -- 1 for an exact answer that counts
    version TEXT NOT NULL,              -- of this holder's dataset
    charged_at INTEGER NOT NULL
) STRICT;
CREATE INDEX charges_by_organisation ON charges (dataset, organisation, charged_at);
CREATE TABLE answered_sets (            -- who was behind exact answers, or will be when they are released
    dataset TEXT NOT NULL,
    job_id BLOB NOT NULL,
    cell INTEGER NOT NULL,              -- -1 for what follows from several
    test INTEGER NOT NULL,
    identity TEXT NOT NULL,
    chosen INTEGER NOT NULL,
    columns TEXT NOT NULL,              -- names separated by commas
    version TEXT NOT NULL,              -- of this holder's dataset
    size INTEGER NOT NULL,
    members BLOB NOT NULL,              -- subject numbers, as pyroaring writes them
    settled INTEGER NOT NULL,           -- 1 once the answer was released
    at INTEGER NOT NULL,
    PRIMARY KEY (job_id, cell, test)
) STRICT;
CREATE INDEX answered_sets_by_size ON answered_sets (dataset, size);
CREATE INDEX answered_sets_by_identity ON answered_sets (identity);
CREATE TABLE left_jobs (                -- jobs that never get a payload from this holder
    job_id BLOB PRIMARY KEY,
    refusal BLOB NOT NULL,
    token BLOB NOT NULL,
    left_at INTEGER NOT NULL
) STRICT;
CREATE TABLE waiting (                  -- jobs for a person
    job_id BLOB PRIMARY KEY,
    attempt INTEGER NOT NULL,
    manifest BLOB NOT NULL,
    since INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    approved INTEGER,                   -- 1, 0, or NULL while nobody has decided
    reason TEXT NOT NULL,               -- for the merchant
    private_reason TEXT NOT NULL,       -- for this house
    decided_at INTEGER,
    replied INTEGER NOT NULL,           -- 1 once the decision has become an answer
    ended INTEGER NOT NULL              -- 1 once the coordinator has said that the job has ended
) STRICT;
CREATE TABLE stops (
    kind TEXT NOT NULL,                 -- all, dataset, merchant, agreement
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;
CREATE TABLE agreements (               -- every signature on every agreement
    digest TEXT NOT NULL,
    signer TEXT NOT NULL,
    signed BLOB NOT NULL,
    PRIMARY KEY (digest, signer)
) STRICT;
CREATE TABLE notices (
    agreement_digest TEXT NOT NULL,
    body_digest TEXT NOT NULL,
    signed BLOB NOT NULL,
    PRIMARY KEY (agreement_digest, body_digest)
) STRICT;
CREATE TABLE documents (                -- everything that this holder has signed, before it was sent
    type TEXT NOT NULL,
    body_digest TEXT NOT NULL,
    signed BLOB NOT NULL,
    to_upload INTEGER NOT NULL,         -- 1 while the coordinator has not taken it; the answers to tasks are asked for
    in_log INTEGER NOT NULL,            -- 1 once the log was seen to have it
    signed_at INTEGER NOT NULL,
    PRIMARY KEY (type, body_digest)
) STRICT;
CREATE TABLE witnessed (                -- checkpoints that this holder has verified; the last is the newest
    size INTEGER PRIMARY KEY,
    root TEXT NOT NULL,
    at INTEGER NOT NULL,
    frontier BLOB NOT NULL,
    checkpoint BLOB NOT NULL
) STRICT;
CREATE TABLE faults (                   -- why this node answers nothing any more, or did not; no row goes away
    code TEXT NOT NULL,
    fields TEXT NOT NULL,               -- JSON
    checkpoint BLOB NOT NULL,           -- the evidence
    since INTEGER NOT NULL,
    lifted_at INTEGER,                  -- NULL while it counts
    lifted_because TEXT NOT NULL
) STRICT;
CREATE TABLE score_models (             -- scoring models that this holder has decided on, or a person has to
    digest TEXT PRIMARY KEY,
    merchant TEXT NOT NULL,
    model BLOB NOT NULL,
    weights BLOB NOT NULL,              -- ciphertexts; empty for a product
    since INTEGER NOT NULL,
    valid_until INTEGER NOT NULL,
    word BLOB,                          -- the approval or refusal; NULL while a person has to decide
    mask_secret BLOB,                   -- sealed; NULL unless approved, and once the model has ended
    approved INTEGER,                   -- what a person has decided: 1, 0, or NULL
    reason TEXT NOT NULL,               -- for the merchant
    private_reason TEXT NOT NULL        -- for this house
) STRICT;
CREATE TABLE score_answers (            -- what was sent for each request, for as long as it can be asked for again
    request_id TEXT PRIMARY KEY,
    request_digest TEXT NOT NULL,
    answer BLOB NOT NULL,
    ciphertexts BLOB NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE TABLE scores (                   -- consents that were answered; for ever, or a clock put back would forget them
    jti TEXT PRIMARY KEY,
    subject BLOB NOT NULL,              -- HMAC-SHA256 of identifier or number under this house's key; empty after days
    organisation TEXT NOT NULL,         -- the merchant's
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX scores_by_subject ON scores (subject, organisation, at);
CREATE INDEX scores_by_day ON scores (organisation, at);
CREATE UNIQUE INDEX one_fault_counts ON faults (lifted_at IS NULL) WHERE lifted_at IS NULL;
"""
