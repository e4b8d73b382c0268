"""The signed documents of a job, in the order in which they appear."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ceiba_protocol.canonical import BigInt, Digest, Document, Hex, Hex32, HexDigest, MemberName, TableName, Text
from ceiba_protocol.plan import Plan

NO_DIGEST = Digest("0" * 64)
"""Stands where a later version's digest will: no gate, no disclosure rules."""

JobId = Annotated[Hex, Field(min_length=32, max_length=32)]
"""16 random bytes, drawn by the merchant."""
Capacity = Annotated[BigInt, Field(ge=1, le=2**40)]
Seconds = Annotated[int, Field(ge=0, le=253_402_300_799)]
"""Since 1970-01-01 UTC; until the end of the year 9999, where calendars in software end."""


class Offer(Document):
    """A holder offers the current version of its dataset."""

    table: TableName
    schema_digest: HexDigest
    holder: MemberName
    version: HexDigest
    row_capacity: Capacity
    """The row count rounded up to a power of two: what the public learns of the dataset's size."""
    published_at: Seconds


class DatasetPin(Document):
    """The one version of one holder's dataset that a job runs on."""

    holder: MemberName
    version: HexDigest
    row_capacity: Capacity


class Manifest(Document):
    """One computation, described and signed by its merchant (PROTOCOL §2.5 step 1).

    The merchant's encryption key is named by id: the key and its proof stand in the pinned roster.
    """

    job_id: JobId
    suite: Literal["K1"] = "K1"
    merchant: MemberName
    purpose: Text
    agreement_digest: HexDigest
    """The roster's digest, which is the standing agreement until agreements exist."""
    plan: Plan
    datasets: tuple[DatasetPin, ...]
    """One for each holder of the table, sorted by holder."""
    key_id: HexDigest
    layout_digest: HexDigest
    disclosure_digest: HexDigest = NO_DIGEST
    not_before: Seconds
    not_after: Seconds

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.not_before >= self.not_after:
            raise ValueError("the window ends before it begins")
        return self


class Approval(Document):
    """A holder takes part, with the public half of a mask key made for this attempt alone (step 2)."""

    job_id: JobId
    manifest_digest: HexDigest
    attempt: Annotated[int, Field(ge=0, le=1000)]
    holder: MemberName
    dataset_version: HexDigest
    mask_key: Hex32
    """X25519 public key."""
    nonce: JobId


class Refusal(Document):
    """A holder does not take part, or cannot go on. `code` and `fields` are an error of errors.py."""

    job_id: JobId
    manifest_digest: HexDigest
    holder: MemberName
    code: Text
    fields: dict[Text, Text]


class Submission(Document):
    """What a holder has sent for one round, without the ciphertexts themselves (step 6)."""

    job_id: JobId
    attempt: Annotated[int, Field(ge=0, le=1000)]
    stage: Literal["release"] = "release"
    iteration: Annotated[int, Field(ge=0, le=1000)] = 0
    holder: MemberName
    context_digest: HexDigest
    ciphertexts: Annotated[int, Field(ge=1, le=1_000_000)]
    ciphertext_digest: HexDigest
    """SHA-256 of the ciphertexts' bytes."""
    commitment: HexDigest
    """HMAC-SHA256 under the holder's salt of its plain sums, for a later audit on site (§6.4)."""
