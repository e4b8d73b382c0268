"""The signed documents of a job, in the order in which they appear."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ceiba_protocol.canonical import (
    BigInt,
    Digest,
    Document,
    Hex,
    Hex32,
    HexDigest,
    JobId,
    MemberName,
    Seconds,
    TableName,
    Text,
)
from ceiba_protocol.plan import Plan

NO_DIGEST = Digest("0" * 64)
"""Stands for the digest of something that there is none of, such as the root of an empty log."""

Attempt = Annotated[int, Field(ge=0, le=1000)]
"""0 for the agreement's whole set; one more for each time that holders have left the job."""
Capacity = Annotated[BigInt, Field(ge=1, le=2**40)]


class Offer(Document):
    """A holder offers the current version of its dataset. Signed by its publisher."""

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


class NoiseTerms(Document):
    """A job whose answer carries noise (PROTOCOL §3.6)."""

    rho: Annotated[int, Field(ge=1, le=10_000_000)]
    """What the job costs, in millionths of ρ, split evenly over the sums of a cell."""
    cells_per_subject: Annotated[int, Field(ge=1, le=1000)] = 1
    """To how many cells a subject may add at most; what it adds beyond them is left out."""


class Manifest(Document):
    """One computation, described and signed by its merchant (PROTOCOL §2.5 step 1).

    The merchant's encryption key is named by id: the key and its proof stand in the pinned roster.
    """

    job_id: JobId
    suite: Literal["K1"] = "K1"
    merchant: MemberName
    purpose: Text
    agreement_digest: HexDigest
    number: Annotated[int, Field(ge=1, le=1_000_000)]
    """Which of the agreement's jobs this is. Each holder answers each number once, so a replay is no new job."""
    plan: Plan
    datasets: tuple[DatasetPin, ...]
    """One for each holder of the agreement, sorted by holder."""
    key_id: HexDigest
    layout_digest: HexDigest
    disclosure_digest: HexDigest
    """Of the agreement's Disclosure."""
    noise: NoiseTerms | None
    """None asks for exact figures."""
    not_before: Seconds
    not_after: Seconds

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.not_before >= self.not_after:
            raise ValueError("the window ends before it begins")
        return self

    @property
    def versions(self) -> dict[str, str]:
        """Holder → the version of its dataset."""
        return {pin.holder: pin.version for pin in self.datasets}


class Approval(Document):
    """A holder takes part, with the public half of a mask key made for this attempt alone (step 2)."""

    job_id: JobId
    manifest_digest: HexDigest
    attempt: Attempt
    holder: MemberName
    dataset_version: HexDigest
    mask_key: Hex32
    """X25519 public key."""
    nonce: JobId
    log_size: Annotated[int, Field(ge=0)]
    """Entries of the log that this holder has witnessed: nobody may show the others an older log (P7)."""


class Refusal(Document):
    """A holder does not take part, or cannot go on. `code` and `fields` are an error of errors.py."""

    job_id: JobId
    manifest_digest: HexDigest
    holder: MemberName
    code: Text
    fields: dict[Text, Text]


class AbortToken(Document):
    """A holder has sent no submission to this job, in whatever attempt, and never will (PROTOCOL §2.6).

    Only with such a token from everyone who is left out do the others answer a smaller set.
    """

    job_id: JobId
    manifest_digest: HexDigest
    holder: MemberName


class GateShare(Document):
    """What a holder has sent to the gate, without the words themselves (step 4)."""

    job_id: JobId
    attempt: Attempt
    holder: MemberName
    context_digest: HexDigest
    words: Annotated[int, Field(ge=1, le=10_000_000)]
    """How many words of 64 bits."""
    words_digest: HexDigest
    """SHA-256 of the words' bytes."""
    sealed_keys: dict[MemberName, Hex]
    """The leader's only: the group's key, sealed to each holder of the set. Without it the masks stay on the sum."""


class FitShare(GateShare):
    """What a holder has sent to one iteration of a fit, without the words themselves (§4.1)."""

    iteration: Annotated[int, Field(ge=0, le=1000)]


class Submission(Document):
    """What a holder has sent for one round, without the ciphertexts themselves (step 6)."""

    job_id: JobId
    attempt: Attempt
    stage: Literal["release"] = "release"
    iteration: Annotated[int, Field(ge=0, le=1000)] = 0
    holder: MemberName
    context_digest: HexDigest
    released: Hex
    """What the gate lets pass: one bit for each cell and test, as `disclosure.gate.pack_released` writes it. The same
    from every holder. Empty without a gate."""
    iterate: Hex
    """Digest of the fit's last state, which its figures are made of: the same from every holder. Empty without a
    fit."""
    ciphertexts: Annotated[int, Field(ge=1, le=1_000_000)]
    ciphertext_digest: HexDigest
    """SHA-256 of the ciphertexts' bytes."""
    commitment: HexDigest
    """HMAC-SHA256 under the holder's salt of its plain sums, for a later audit on site (§6.4)."""
