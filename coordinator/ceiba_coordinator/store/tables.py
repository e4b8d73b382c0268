"""The tables. What members signed is stored as they sent it; everything else is an index to find it by."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

SCHEMA_VERSION = 5

metadata = MetaData()

about = Table("about", metadata, Column("version", Integer, primary_key=True))

invitations = Table(
    "invitations",
    metadata,
    Column("token_hash", String(64), primary_key=True),  # SHA-256 of the secret, so that a copy admits nobody
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("organisation", String(200), nullable=False),
    Column("expires_at", BigInteger, nullable=False),  # seconds since 1970 UTC
    Column("used_by", String(64)),  # fingerprint of the TLS key that used it
)

members = Table(
    "members",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("descriptor", LargeBinary, nullable=False),  # Signed
    Column("tls_fingerprint", String(64), nullable=False),
    Column("certificate", LargeBinary, nullable=False),  # PEM, the newest
)

rosters = Table(
    "rosters",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("body", LargeBinary, nullable=False),  # RFC 8785 JSON
    Column("in_force_since", BigInteger),  # seconds since 1970 UTC; NULL while it is only proposed
)

roster_approvals = Table(
    "roster_approvals",
    metadata,
    Column("version", Integer, ForeignKey("rosters.version"), primary_key=True),
    Column("member", String(64), primary_key=True),
    Column("approval", LargeBinary, nullable=False),  # Signed
)

schemas = Table(
    "schemas",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("body", LargeBinary, nullable=False),  # RFC 8785 JSON
)

offers = Table(
    "offers",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # the newest is the current one
    Column("table_name", String(200), nullable=False, index=True),
    Column("holder", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("offer", LargeBinary, nullable=False),  # Signed
)
"""A holder's offers of a table: the current version, and older ones that jobs may still pin."""

agreements = Table(
    "agreements",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # the order in which they were proposed
    Column("digest", String(64), nullable=False, unique=True),
    Column("agreement_id", String(32), nullable=False, unique=True),
    Column("merchant", String(64), nullable=False, index=True),
)

agreement_tables = Table(
    "agreement_tables",
    metadata,
    Column("digest", String(64), ForeignKey("agreements.digest"), primary_key=True),
    Column("table_name", String(200), primary_key=True, index=True),
)
"""What each agreement is about: several tables, if it is a joint one."""

agreement_documents = Table(
    "agreement_documents",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # the order in which they came
    Column("digest", String(64), ForeignKey("agreements.digest"), nullable=False),
    Column("signer", String(64), nullable=False),
    Column("notice", Integer, nullable=False),  # the notice's number, 0 for a signature
    Column("document", LargeBinary, nullable=False),  # Signed
    UniqueConstraint("digest", "signer", "notice"),
)
"""The parties' signatures on each agreement and their notices about it. Its state follows from them."""

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", LargeBinary(16), primary_key=True),
    Column("merchant", String(64), nullable=False),
    Column("manifest", LargeBinary, nullable=False),  # Signed
    Column("agreement_digest", String(64), ForeignKey("agreements.digest"), nullable=False),
    Column("number", Integer, nullable=False),  # of the agreement's jobs
    Column("state", String(32), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("iteration", Integer, nullable=False, default=0),  # of a fit: rounds that are complete
    Column("deadline", BigInteger, nullable=False),  # seconds since 1970 UTC
    Column("refusal", LargeBinary),  # Signed; the one that ended the job
    Column("ended_because", String(64)),  # code of an error
    Column("release", LargeBinary),  # Signed
    Column("release_index", BigInteger),  # of its entry in the log
    Column("total", LargeBinary),  # ciphertexts
    UniqueConstraint("agreement_digest", "number"),
)

seats = Table(
    "seats",
    metadata,
    Column("job_id", LargeBinary(16), ForeignKey("jobs.job_id"), primary_key=True),
    Column("holder", String(64), primary_key=True, index=True),
    Column("approval", LargeBinary),  # Signed; for the job's attempt
    Column("share", LargeBinary),  # Signed GateShare; for the job's attempt
    Column("words", LargeBinary),  # the share's
    Column("submission", LargeBinary),  # Signed; for the job's attempt
    Column("ciphertexts", LargeBinary),
    Column("refusal", LargeBinary),  # Signed
    Column("abort", LargeBinary),  # Signed; the holder has left
    Column("has_submitted", Boolean, nullable=False, default=False),  # to gate or release, in whatever attempt
    Column("pending", Boolean, nullable=False, default=False),  # a person there has to decide
)
"""One row for each holder of each job: what it has answered so far."""

fit_shares = Table(
    "fit_shares",
    metadata,
    Column("job_id", LargeBinary(16), ForeignKey("jobs.job_id"), primary_key=True),
    Column("iteration", Integer, primary_key=True),
    Column("holder", String(64), primary_key=True),
    Column("share", LargeBinary, nullable=False),  # Signed FitShare
    Column("words", LargeBinary, nullable=False),
)
"""What holders have sent to the rounds of a fit, until the job has ended."""

joint_messages = Table(
    "joint_messages",
    metadata,
    Column("job_id", LargeBinary(16), ForeignKey("jobs.job_id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("message", LargeBinary, nullable=False),  # Signed JointMessage
    Column("payload", LargeBinary),  # sealed to its receiver; NULL once nobody will ask for it
)
"""What the holders of a joint job have sent each other and the merchant."""

log_entries = Table(
    "log_entries",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),  # from 0, without a gap
    Column("body", LargeBinary, nullable=False),  # LogEntry, RFC 8785 JSON: the leaf's bytes
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("checkpoint", LargeBinary, nullable=False),  # Signed
    Column("frontier", LargeBinary, nullable=False),  # from which the next one is made
)

cosignatures = Table(
    "cosignatures",
    metadata,
    Column("size", BigInteger, ForeignKey("checkpoints.size"), primary_key=True),
    Column("holder", String(64), primary_key=True, index=True),
    Column("cosignature", LargeBinary, nullable=False),  # Signed
)

score_models = Table(
    "score_models",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("merchant", String(64), nullable=False, index=True),
    Column("model", LargeBinary, nullable=False),  # Signed ScoreModel
    Column("weights", LargeBinary, nullable=False),  # ciphertexts; empty for a product
    Column("valid_until", BigInteger, nullable=False),  # seconds since 1970 UTC
)

score_words = Table(
    "score_words",
    metadata,
    Column("digest", String(64), ForeignKey("score_models.digest"), primary_key=True),
    Column("holder", String(64), primary_key=True, index=True),
    Column("word", LargeBinary),  # Signed ModelApproval or ModelRefusal
    Column("pending", Boolean, nullable=False, default=False),  # a person there has to decide
)
"""One row for each holder of each scoring model: what it has said."""

score_requests = Table(
    "score_requests",
    metadata,
    Column("request_id", String(32), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("answered", Boolean, nullable=False, default=False),  # and the answers are in the log
)
"""Which requests the log has. What is in them is in memory while they last; to a merchant that asks again the holders
send the same answers again."""
