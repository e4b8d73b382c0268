"""The tables. What members signed is stored as they sent it; everything else is an index to find it by."""

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, MetaData, String, Table

SCHEMA_VERSION = 1

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
    Column("body", LargeBinary, nullable=False),  # RFC 8785 JSON
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

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", LargeBinary(16), primary_key=True),
    Column("merchant", String(64), nullable=False),
    Column("manifest", LargeBinary, nullable=False),  # Signed
    Column("state", String(32), nullable=False, index=True),
    Column("deadline", BigInteger, nullable=False),  # seconds since 1970 UTC
    Column("refusal", LargeBinary),  # Signed
    Column("total", LargeBinary),  # ciphertexts
)

seats = Table(
    "seats",
    metadata,
    Column("job_id", LargeBinary(16), ForeignKey("jobs.job_id"), primary_key=True),
    Column("holder", String(64), primary_key=True, index=True),
    Column("approval", LargeBinary),  # Signed
    Column("submission", LargeBinary),  # Signed
    Column("ciphertexts", LargeBinary),
)
"""One row for each holder of each job: what it has answered so far."""
