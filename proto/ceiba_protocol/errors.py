"""Every error of Ceiba on one page: stable code, whose fault, gRPC status, public text, remedy.

A text is one template, never joined from fragments, so that a translation replaces whole sentences. Its fields
carry public facts only (names, counts, limits, digests); a value from a row, or another library's message, never
enters a field. What only the operator may read goes into `private`, which is logged and never sent.
"""

from enum import Enum
from typing import ClassVar, Self


class Fault(Enum):
    """Whose fault an error is, and so who can do something about it."""

    CALLER = "caller"
    """The request is wrong; sending it again will not help."""
    PEER = "peer"
    """Another party sent something that the protocol forbids."""
    POLICY = "policy"
    """The request is well formed, and a rule that the parties agreed on says no."""
    US = "us"
    """This process cannot do its part now; trying again may help."""

    @property
    def exit_code(self) -> int:
        """What a command line exits with: 2 bad input, 3 refused, 4 not reachable or not possible now, 5 a peer's."""
        return {Fault.CALLER: 2, Fault.POLICY: 3, Fault.US: 4, Fault.PEER: 5}[self]


class CeibaError(Exception):
    """Base of every error that a user can meet. Subclasses fill in the class variables; instances, the fields."""

    code: ClassVar[str]
    fault: ClassVar[Fault]
    status: ClassVar[str]
    """Name of the grpc.StatusCode that carries this error."""
    text: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(self, *, private: str | None = None, **fields: object) -> None:
        self.fields = {name: str(value) for name, value in fields.items()}
        self.private = private
        super().__init__(self.public)

    @property
    def public(self) -> str:
        """What a stranger may read."""
        return self.text.format(**self.fields)

    @property
    def what_to_do(self) -> str:
        """The next step for whoever reads the error."""
        return self.remedy.format(**self.fields)

    def __str__(self) -> str:
        return f"{self.public} {self.what_to_do}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.fields))

    @classmethod
    def from_fields(cls, fields: dict[str, str]) -> Self:
        """The same error, as received from another process."""
        return cls(private=None, **fields)


def _rebuild(kind: type[CeibaError], fields: dict[str, str]) -> CeibaError:
    return kind.from_fields(fields)


# --- documents and identities ----------------------------------------------------------------------------------


class MalformedDocument(CeibaError):
    code, fault, status = "malformed_document", Fault.PEER, "INVALID_ARGUMENT"
    text = "A document ({document}) could not be read: {problem}."
    remedy = "Make it with the same Ceiba version as the other members use."


class MalformedMessage(CeibaError):
    code, fault, status = "malformed_message", Fault.PEER, "INVALID_ARGUMENT"
    text = "The message {message} is not acceptable: {problem}."
    remedy = "The sender's software differs from the protocol; compare the Ceiba versions."


class BadSignature(CeibaError):
    code, fault, status = "bad_signature", Fault.PEER, "UNAUTHENTICATED"
    text = "The signature on a document ({document}) does not verify under the key of {signer} in the pinned roster."
    remedy = "Do not answer it. If {signer} changed keys, compare fingerprints with them and pin the new roster."


class UnknownMember(CeibaError):
    code, fault, status = "unknown_member", Fault.PEER, "PERMISSION_DENIED"
    text = "{member} is not on the pinned roster as {role}."
    remedy = "If the member is new, obtain the new roster, compare its fingerprint by telephone, and pin it."


class RosterNotPinned(CeibaError):
    code, fault, status = "roster_not_pinned", Fault.CALLER, "FAILED_PRECONDITION"
    text = "No roster is pinned yet, so nobody's signature can be checked."
    remedy = "Run `{command}` with the roster file and the fingerprint that the other members confirm."


class RosterMismatch(CeibaError):
    code, fault, status = "roster_mismatch", Fault.PEER, "FAILED_PRECONDITION"
    text = "The roster is not acceptable: {problem}."
    remedy = "A member does not pin it, and compares fingerprints with the others; an operator mends the cause first."


class NameRevoked(CeibaError):
    code, fault, status = "name_revoked", Fault.CALLER, "ALREADY_EXISTS"
    text = "{member} was revoked, and the log keeps what was signed under that name, so nobody can join under it."
    remedy = "Choose another name, such as {member}-2."


class RosterNotApproved(CeibaError):
    code, fault, status = "roster_not_approved", Fault.CALLER, "FAILED_PRECONDITION"
    text = "Roster {version} is signed by {approved} of those who must sign it, and it takes {quorum}."
    remedy = "Each of them compares the words with the others and runs `ceiba-node pin`."


class WrongRole(CeibaError):
    code, fault, status = "wrong_role", Fault.CALLER, "PERMISSION_DENIED"
    text = "A {role} may not call {method}."
    remedy = "Use an identity with the right role."


class BadJoinToken(CeibaError):
    code, fault, status = "bad_join_token", Fault.CALLER, "UNAUTHENTICATED"
    text = "The join token is not accepted: {problem}."
    remedy = "Ask the operator for a new one: `ceiba-coordinator invite`."


class BadCertificateRequest(CeibaError):
    code, fault, status = "bad_certificate_request", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The certificate request is not acceptable: {problem}."
    remedy = "Use this version's commands with the member's own identity folder: they make the request."


class CertificateExpired(CeibaError):
    code, fault, status = "certificate_expired", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The certificate of {member} ended on {ended}, so it cannot be renewed."
    remedy = "The operator runs `ceiba-coordinator revoke {member}`; then join under another name, in an empty folder."


class AlreadyJoined(CeibaError):
    code, fault, status = "already_joined", Fault.CALLER, "ALREADY_EXISTS"
    text = "This folder has joined {space} as {name} already."
    remedy = "Nothing to do: go on with `pin`. For another member, use another folder."


class BadIdentity(CeibaError):
    code, fault, status = "bad_identity", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The identity folder {path} cannot be used: {problem}."
    remedy = "Make one with `init --join TOKEN`, or name the right folder."


class NoKeyFile(CeibaError):
    code, fault, status = "no_key_file", Fault.CALLER, "NOT_FOUND"
    text = "There is no key file {path}."
    remedy = "Name it with `--key FILE` if it lies elsewhere; if it is lost, docs/hospital.md says what that means."


class PassphraseNeeded(CeibaError):
    code, fault, status = "passphrase_needed", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The keys on disk are sealed under a passphrase, and none was given, or an empty one."
    remedy = "Set CEIBA_PASSPHRASE_FILE (a file readable by its owner alone) or CEIBA_PASSPHRASE."


class BadPassphrase(CeibaError):
    code, fault, status = "bad_passphrase", Fault.CALLER, "UNAUTHENTICATED"
    text = "The passphrase does not open the sealed keys, or their file was changed."
    remedy = "Give the passphrase under which they were sealed; if it is right, restore the file from a backup."


class BadPassphraseFile(CeibaError):
    code, fault, status = "bad_passphrase_file", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The passphrase file {path} cannot be used: {problem}."
    remedy = "CEIBA_PASSPHRASE_FILE names a file that its owner alone can read: `chmod 600 FILE`."


class BadConfiguration(CeibaError):
    code, fault, status = "bad_configuration", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The configuration {path} cannot be used: {problem}."
    remedy = "Compare it with the sample in docs/."


class NodeRunning(CeibaError):
    code, fault, status = "node_running", Fault.CALLER, "FAILED_PRECONDITION"
    text = "A node is running in the folder {folder}."
    remedy = "Stop it first; two nodes with one ledger would answer twice."


class BadCommand(CeibaError):
    code, fault, status = "bad_command", Fault.CALLER, "INVALID_ARGUMENT"
    text = "`{command}` cannot do that: {problem}."
    remedy = "`{command} --help` shows an example."


# --- keys and sums ---------------------------------------------------------------------------------------------


class KeyTooShort(CeibaError):
    code, fault, status = "key_too_short", Fault.CALLER, "INVALID_ARGUMENT"
    text = "A Paillier modulus has {bits} bits; {minimum} to {maximum} are accepted."
    remedy = "Make a new key with `ceiba init`."


class BadKeyProof(CeibaError):
    code, fault, status = "bad_key_proof", Fault.PEER, "PERMISSION_DENIED"
    text = "An encryption key is refused: {problem}."
    remedy = "A malformed key can read a holder's figures; do not use it. Honest keys come from Ceiba's own commands."


class SlotOverflow(CeibaError):
    code, fault, status = "slot_overflow", Fault.US, "OUT_OF_RANGE"
    text = "A sum does not fit its slot of {width} bits, so nothing was sent."
    remedy = "The dataset holds more rows than its published capacity; publish it again."


class TotalRejected(CeibaError):
    code, fault, status = "total_rejected", Fault.PEER, "DATA_LOSS"
    text = "The encrypted total did not pass its checks ({problem}); no number is shown."
    remedy = (
        "Some parties disagreed about the job, or a message was changed on the way. Run it again; "
        "if it repeats, compare rosters and dataset versions."
    )


class AnswerRejected(CeibaError):
    code, fault, status = "answer_rejected", Fault.PEER, "DATA_LOSS"
    text = "The answer to the joint job did not pass its checks ({problem}); no number is shown."
    remedy = "Ask again; if it repeats, compare rosters and the Ceiba versions of the holders with theirs."


class BadCiphertext(CeibaError):
    code, fault, status = "bad_ciphertext", Fault.PEER, "INVALID_ARGUMENT"
    text = "The ciphertexts of {member} are refused: {problem}."
    remedy = "The sender's software differs from the protocol; compare the Ceiba versions."


class SeedReused(CeibaError):
    code, fault, status = "seed_reused", Fault.US, "INTERNAL"
    text = "A mask seed was about to be used a second time, so nothing was sent."
    remedy = "Restart the node; if it repeats, report it: masks must be used once."


# --- questions -------------------------------------------------------------------------------------------------


class UnknownTable(CeibaError):
    code, fault, status = "unknown_table", Fault.CALLER, "NOT_FOUND"
    text = "There is no table {table} in this space; the nearest name is {nearest}."
    remedy = "`space.catalogue()` lists the tables."


class UnknownColumn(CeibaError):
    code, fault, status = "unknown_column", Fault.CALLER, "NOT_FOUND"
    text = "The table {table} has no column {column}; the nearest name is {nearest}."
    remedy = "`space.table({table!r}).columns` lists the columns."


class UnknownCategory(CeibaError):
    code, fault, status = "unknown_category", Fault.CALLER, "INVALID_ARGUMENT"
    text = "{value} is not in the declared domain of {column}; the nearest value is {nearest}."
    remedy = "The schema lists the domain of every category."


class UnknownStatistic(CeibaError):
    code, fault, status = "unknown_statistic", Fault.CALLER, "NOT_FOUND"
    text = "There is no statistic {statistic}; the nearest name is {nearest}."
    remedy = "`dir(ceiba)` lists the statistics."


class WrongType(CeibaError):
    code, fault, status = "wrong_type", Fault.CALLER, "INVALID_ARGUMENT"
    text = "{operation} cannot be applied to {given}."
    remedy = "{hint}"


class NoDomain(CeibaError):
    code, fault, status = "no_domain", Fault.CALLER, "FAILED_PRECONDITION"
    text = "{column} has no declared domain, so its groups are not public and it cannot be grouped by."
    remedy = (
        "Declare `domain = [...]` for it in the schema, or group by bins "
        "(`width_bucket({column}, low, high, count)`), calendar units or CASE."
    )


class UnboundedColumn(CeibaError):
    code, fault, status = "unbounded_column", Fault.CALLER, "FAILED_PRECONDITION"
    text = "{column} has no declared minimum and maximum, so the size of its sum is not known."
    remedy = "Declare `minimum` and `maximum` for it in the schema."


class TooManyGroups(CeibaError):
    code, fault, status = "too_many_groups", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The question has {cells} groups with {sums} sums each; the limit is {limit} sums."
    remedy = "Use fewer or coarser groups, or ask for fewer statistics at once."


class PlanTooLarge(CeibaError):
    code, fault, status = "plan_too_large", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The plan's {what} is beyond the limit of {limit}."
    remedy = "Split the question into smaller ones."


class ValueOutOfRange(CeibaError):
    code, fault, status = "value_out_of_range", Fault.CALLER, "INVALID_ARGUMENT"
    text = "{what} can reach {bits} bits, more than the {limit} bits of a holder's integers."
    remedy = "Narrow the column's declared bounds, use a coarser resolution, or ROUND intermediate results."


class GateTooLarge(CeibaError):
    code, fault, status = "gate_too_large", Fault.CALLER, "INVALID_ARGUMENT"
    text = "Which cells are large enough cannot be found out for {what}; at most {limit} are possible."
    remedy = "Use fewer or coarser groups, or ask for fewer statistics at once."


class NoiseTooCostly(CeibaError):
    code, fault, status = "noise_too_costly", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The job's cost in ρ, {cost}, is more than the {limit} that the agreement allows in a year."
    remedy = "Ask with a smaller `rho`; answers then carry more noise."


class ResolutionNeeded(CeibaError):
    code, fault, status = "resolution_needed", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The quotient of two columns has no resolution of its own, and answers are never silently approximate."
    remedy = "Say how finely each row's quotient is rounded: ROUND(a / b, digits), or (a / b).round(digits)."


class BadSQL(CeibaError):
    code, fault, status = "bad_sql", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The SQL could not be understood at line {line}, column {column}: {problem}."
    remedy = "The subset is described in docs/merchant.md."


class UnsupportedSQL(CeibaError):
    code, fault, status = "unsupported_sql", Fault.CALLER, "UNIMPLEMENTED"
    text = "{construct} at line {line}, column {column} is outside the SQL that Ceiba answers."
    remedy = "{hint}"


class BadQuestion(CeibaError):
    code, fault, status = "bad_question", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The question cannot be asked: {problem}."
    remedy = "{hint}"


class AmbiguousColumn(CeibaError):
    code, fault, status = "ambiguous_column", Fault.CALLER, "INVALID_ARGUMENT"
    text = "Several of the joined tables have a column {column}: {tables}."
    remedy = "Say which: `firms[{first!r}].{column}`, where `firms` is the join; in a text, {qualified!r}."


class SeveralHolders(CeibaError):
    code, fault, status = "several_holders", Fault.CALLER, "INVALID_ARGUMENT"
    text = "{table} has several holders, and a join takes the table of one: {holders}."
    remedy = "Choose one, for example `holder={{{table!r}: {first!r}}}`."


# --- datasets --------------------------------------------------------------------------------------------------


class BadSchema(CeibaError):
    code, fault, status = "bad_schema", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The schema of {table} is not usable: {problem}."
    remedy = "{hint}"


class BadSource(CeibaError):
    code, fault, status = "bad_source", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The source {source} cannot be published: {problem}."
    remedy = "Check the path and format (CSV, Parquet, DuckDB), or name a column with `--column NAME=SOURCE`."


class EmptyTable(CeibaError):
    code, fault, status = "empty_table", Fault.CALLER, "FAILED_PRECONDITION"
    text = "A version of {table} without any rows is not published."
    remedy = "Publish it when it has rows; `ceiba-node stop dataset {table}` ends answers from an older version."


class DoesNotConform(CeibaError):
    code, fault, status = "does_not_conform", Fault.CALLER, "FAILED_PRECONDITION"
    text = "{rows} rows of {table} do not conform to its schema, more than the {allowed} allowed, in: {columns}."
    remedy = "Publish without --tolerance to read what does not conform; mend the source, or agree on a wider schema."


class ValuesMissing(CeibaError):
    code, fault, status = "values_missing", Fault.CALLER, "FAILED_PRECONDITION"
    text = "Rows of {table} that lack a value which may not be missing: {rows}, in: {columns}."
    remedy = "Mend the source, or have the space agree on a schema in which these columns are nullable."


class NoSubjectKey(CeibaError):
    code, fault, status = "no_subject_key", Fault.CALLER, "FAILED_PRECONDITION"
    text = "Nobody can be left out of {table}: its schema has no subject key, by which a person's rows are found."
    remedy = "Agree on a schema with a subject_key; `ceiba-node stop dataset {table}` ends answers until then."


class SplitNeedsSubjectKey(CeibaError):
    code, fault, status = "split_needs_subject_key", Fault.CALLER, "FAILED_PRECONDITION"
    text = "There are no splits of {table}: its schema has no subject key, by which a person is known at every holder."
    remedy = "Choose rows by a column, or agree on a schema with a subject_key."


class DatasetUnknown(CeibaError):
    code, fault, status = "dataset_unknown", Fault.CALLER, "NOT_FOUND"
    text = "{holder} has no version {version} of {table}."
    remedy = "Ask again: the catalogue names the current version, and holders keep only some of the older ones."


class SnapshotDamaged(CeibaError):
    code, fault, status = "snapshot_damaged", Fault.US, "DATA_LOSS"
    text = "The snapshot of {table} at version {version} cannot be read at {holder}."
    remedy = "The holder's operator must publish the dataset again."


class EngineFailed(CeibaError):
    code, fault, status = "engine_failed", Fault.US, "INTERNAL"
    text = "The query engine of {holder} could not compute its part."
    remedy = "The holder's operator finds the kind of failure in the node's log; the job can be asked again."


# --- jobs ------------------------------------------------------------------------------------------------------


class UnknownJob(CeibaError):
    code, fault, status = "unknown_job", Fault.CALLER, "NOT_FOUND"
    text = "There is no job {job} for this member."
    remedy = "Use the id that `submit()` returned, with the identity that submitted it."


class JobConflict(CeibaError):
    code, fault, status = "job_conflict", Fault.CALLER, "ALREADY_EXISTS"
    text = "The job {job} exists with another content."
    remedy = "Every new question needs a new job id; the SDK draws one."


class IllegalTransition(CeibaError):
    code, fault, status = "illegal_transition", Fault.PEER, "FAILED_PRECONDITION"
    text = "The job {job} is {state} and cannot take {event}."
    remedy = "Read the job's state with `job.status()`."


class JobRefused(CeibaError):
    code, fault, status = "job_refused", Fault.POLICY, "PERMISSION_DENIED"
    text = "{holder} refused the job {job}: {reason}"
    remedy = "{remedy}"
    reason: CeibaError | None = None
    """The holder's own error, such as Separation, whose text and remedy these are; None in an unpickled copy."""


class LinkageLost(CeibaError):
    code, fault, status = "linkage_lost", Fault.US, "ABORTED"
    text = "{holder} was restarted during the joint job, and what links subjects is never on its disk."
    remedy = "Ask again: it is another job."


class LinkageGone(CeibaError):
    code, fault, status = "linkage_gone", Fault.US, "FAILED_PRECONDITION"
    text = "{holder} has no linkage of the job {job}: one is kept in memory alone, for a time, and for the same data."
    remedy = "Ask again without `linkage`: then subjects are linked anew."


class LinkageUsedUp(CeibaError):
    code, fault, status = "linkage_used_up", Fault.POLICY, "PERMISSION_DENIED"
    text = "The linkage of the job {job} has served {limit} jobs at {holder}, as many as the agreement allows."
    remedy = "Ask again without `linkage`: then subjects are linked anew."


class LinkageDiffers(CeibaError):
    code, fault, status = "linkage_differs", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The linkage of the job {job} does not serve this one, says {holder}: {problem}."
    remedy = "Ask again without `linkage`: then subjects are linked anew."


class JobExpired(CeibaError):
    code, fault, status = "job_expired", Fault.US, "DEADLINE_EXCEEDED"
    text = "The job {job} reached its deadline without an answer from {holders}."
    remedy = "Ask again when they are reachable, or with a longer `deadline`."


class JobCancelled(CeibaError):
    code, fault, status = "job_cancelled", Fault.CALLER, "CANCELLED"
    text = "The job {job} was cancelled."
    remedy = "Ask again if that was not meant."


class JobFailed(CeibaError):
    code, fault, status = "job_failed", Fault.US, "ABORTED"
    text = "The job {job} ended without an answer at {holder}: {reason}"
    remedy = "{remedy}"
    reason: CeibaError | None = None
    """As of JobRefused."""


class NotYetDone(CeibaError):
    code, fault, status = "not_yet_done", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The job {job} is {state}; it has no result yet."
    remedy = "Wait for it: `job.wait()`."


class OutsideWindow(CeibaError):
    code, fault, status = "outside_window", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The manifest is valid from {not_before} to {not_after}, and it is {now} here."
    remedy = "Check the clocks: 5 minutes of difference are allowed. Otherwise submit the job anew."


class ManifestMismatch(CeibaError):
    code, fault, status = "manifest_mismatch", Fault.PEER, "FAILED_PRECONDITION"
    text = "The job's manifest does not fit what this member pinned: {problem}."
    remedy = "If the space has a newer roster, compare its fingerprint with the other members and pin it."


class SetMismatch(CeibaError):
    code, fault, status = "set_mismatch", Fault.PEER, "FAILED_PRECONDITION"
    text = "The set of holders is refused: {problem}."
    remedy = "A set is answered whole or not at all. If this repeats, ask the operator why it differs."


class SecondPayload(CeibaError):
    code, fault, status = "second_payload", Fault.PEER, "FAILED_PRECONDITION"
    text = "This round of the job {job} was answered before, for another set or manifest; two could isolate a holder."
    remedy = "Only the stored answer is sent again. If you did not expect this, ask the operator why the set changed."


class TooFewHolders(CeibaError):
    code, fault, status = "too_few_holders", Fault.POLICY, "FAILED_PRECONDITION"
    text = "{table} has {holders} holders; at least {minimum} are needed, or a holder could work out another's figures."
    remedy = "Wait until more holders offer the table."


class DatasetMissing(CeibaError):
    code, fault, status = "dataset_missing", Fault.US, "FAILED_PRECONDITION"
    text = "{holders} has not published {table} yet."
    remedy = "The set of holders is answered whole; ask again when the dataset is published."


# --- agreements and policy -------------------------------------------------------------------------------------


class AgreementMismatch(CeibaError):
    code, fault, status = "agreement_mismatch", Fault.PEER, "FAILED_PRECONDITION"
    text = "The agreement {agreement} is not acceptable: {problem}."
    remedy = "If a member's keys have changed, the merchant proposes a new agreement."


class UnknownAgreement(CeibaError):
    code, fault, status = "unknown_agreement", Fault.CALLER, "NOT_FOUND"
    text = "There is no agreement {agreement} here."
    remedy = "`ceiba-node agreements list`, or `space.agreements()`, lists them; the first digits of an id are enough."


class NoAgreement(CeibaError):
    code, fault, status = "no_agreement", Fault.POLICY, "FAILED_PRECONDITION"
    text = "No agreement that is in force covers this question about {table}: {problem}."
    remedy = (
        "`space.agreements()` shows what is agreed; `space.agreements.propose(...)`, or `propose_joint(...)` for "
        "tables of several holders together, asks the holders for more."
    )


class NotAgreed(CeibaError):
    code, fault, status = "not_agreed", Fault.POLICY, "PERMISSION_DENIED"
    text = "The agreement {agreement} does not cover {what}."
    remedy = "Ask within the agreement, or propose one that covers it."


class AgreementNotActive(CeibaError):
    code, fault, status = "agreement_not_active", Fault.POLICY, "FAILED_PRECONDITION"
    text = "The agreement {agreement} is {state}, so nothing is answered under it."
    remedy = "`space.agreements()` shows who has not signed, or who suspended it and why."


class IllegalNotice(CeibaError):
    code, fault, status = "illegal_notice", Fault.CALLER, "FAILED_PRECONDITION"
    text = "{member} cannot {word} the agreement {agreement}."
    remedy = "A proposal is refused or withdrawn; what is active is suspended or terminated; who suspended, resumes."


class NothingToSign(CeibaError):
    code, fault, status = "nothing_to_sign", Fault.CALLER, "FAILED_PRECONDITION"
    text = "{member} has nothing to sign in the agreement {agreement}: {problem}."
    remedy = "`ceiba-node agreements show` says who has not signed, and what has become of it."


class GradeForbids(CeibaError):
    code, fault, status = "grade_forbids", Fault.POLICY, "PERMISSION_DENIED"
    text = "Columns of grade {grade} in {table} cannot be asked about."
    remedy = "Core data is never answered; ask about other columns."


class ExactForbidden(CeibaError):
    code, fault, status = "exact_forbidden", Fault.POLICY, "PERMISSION_DENIED"
    text = "Under the agreement {agreement} no exact answers are given."
    remedy = "Ask with noise: `run(noise=True)`; `query.explain()` says what it costs."


class BudgetExhausted(CeibaError):
    code, fault, status = "budget_exhausted", Fault.POLICY, "RESOURCE_EXHAUSTED"
    text = "The question costs ρ {cost}, and {left} is left of what answers about {table} may cost in 365 days."
    remedy = "Ask with a smaller `rho`, which means more noise; or repeat an earlier question, which costs nothing."


class ExactQuotaUsed(CeibaError):
    code, fault, status = "exact_quota_used", Fault.POLICY, "RESOURCE_EXHAUSTED"
    text = "All {limit} exact answers about this version of {table} were given."
    remedy = "Ask with noise, `run(noise=True)`, or wait for another version of the data."


class HistoryFull(CeibaError):
    code, fault, status = "history_full", Fault.POLICY, "RESOURCE_EXHAUSTED"
    text = "{holder} keeps {limit} sets of subjects behind answers about {table}, and cannot compare with more."
    remedy = "Ask with noise: `run(noise=True)`."


class AskedOtherwise(CeibaError):
    code, fault, status = "asked_otherwise", Fault.POLICY, "FAILED_PRECONDITION"
    text = (
        "Exact figures about these subjects are all of one table, so that no filter makes two of them differ by few; "
        "but there is, or was before, {what}."
    )
    remedy = (
        "Ask with noise, `run(noise=True)`; or with the filters and divisions of the earlier question: group by what "
        "you would filter by."
    )


class AnswerPending(CeibaError):
    code, fault, status = "answer_pending", Fault.US, "UNAVAILABLE"
    text = "{holder} is at another exact answer about {table}, and cannot compare this one with it before it has ended."
    remedy = "Ask again in some seconds, or with noise: `run(noise=True)`."


class NoiseUndefined(CeibaError):
    code, fault, status = "noise_undefined", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The noise of an answer is not defined: {problem}."
    remedy = "Correct the privacy loss, the bounds or the number of holders that may collude."


class NearbySet(CeibaError):
    code, fault, status = "nearby_set", Fault.POLICY, "PERMISSION_DENIED"
    text = "Within 30 days another set was agreed on or answered for {table}; the two differ only by {holders}."
    remedy = "The difference of two totals would show their figures. Keep the set, or wait until 30 days have passed."


class Stopped(CeibaError):
    code, fault, status = "stopped", Fault.POLICY, "PERMISSION_DENIED"
    text = "{holder} has stopped answering {what}."
    remedy = "Only {holder} can resume; ask its officer."


class ForbiddenByPolicy(CeibaError):
    code, fault, status = "forbidden_by_policy", Fault.POLICY, "PERMISSION_DENIED"
    text = "The local policy of {holder} does not allow it: {rule}."
    remedy = "Ask its officer; the rule stands in its policy.toml."


class QuotaExceeded(CeibaError):
    code, fault, status = "quota_exceeded", Fault.POLICY, "RESOURCE_EXHAUSTED"
    text = "The quota of {quota} at {holder} is used up: {used} of {limit}."
    remedy = "Wait until the next day (UTC), or agree on more."


class NumberUsed(CeibaError):
    code, fault, status = "number_used", Fault.POLICY, "ALREADY_EXISTS"
    text = "Job number {number} of the agreement {agreement} was asked before, as another job."
    remedy = "Every job takes a new number; the SDK counts. A manifest cannot be replayed."


class RefusedByPerson(CeibaError):
    code, fault, status = "refused_by_person", Fault.POLICY, "PERMISSION_DENIED"
    text = "A person at {holder} refused it: {reason}."
    remedy = "Ask the officer of {holder}."


class NotWaiting(CeibaError):
    code, fault, status = "not_waiting", Fault.CALLER, "NOT_FOUND"
    text = "No job {job} waits for a decision here."
    remedy = "`ceiba-node approvals list`, and `ceiba-node models list` for scoring models, show those that wait."


class WrongKey(CeibaError):
    code, fault, status = "wrong_key", Fault.CALLER, "PERMISSION_DENIED"
    text = "The key in {path} is not the {duty} key that {member}'s descriptor certifies."
    remedy = "Each duty signs with its own key: the officer agreements, the publisher datasets."


# --- fits ------------------------------------------------------------------------------------------------------


class BadModel(CeibaError):
    code, fault, status = "bad_model", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The model cannot be fitted: {problem}."
    remedy = "Change the formula or its arguments; `docs/merchant/` has a page for each model."


class TooFewRows(CeibaError):
    code, fault, status = "too_few_rows", Fault.POLICY, "FAILED_PRECONDITION"
    text = "There are too few complete rows for {parameters} parameters: at least {least} are needed."
    remedy = "Leave out columns, or columns with many missing values; widen the filter."


class ColumnWithheld(CeibaError):
    code, fault, status = "column_withheld", Fault.POLICY, "FAILED_PRECONDITION"
    text = "Too few subjects or holders are behind, or are left out by, {columns}; or an earlier answer is too near."
    remedy = "Join rare levels to others, leave the column out, or widen the filter."


class ColumnConcentrated(CeibaError):
    code, fault, status = "column_concentrated", Fault.POLICY, "FAILED_PRECONDITION"
    text = "Nearly all of what varies in the column {column} comes from fewer subjects than an answer must have."
    remedy = "Use its logarithm, cut it at a bound, or group it."


class ConstantColumn(CeibaError):
    code, fault, status = "constant_column", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The column {column} does not vary in these rows, or hardly within the bounds that its schema declares."
    remedy = "Leave it out. A level that nobody has is no level: join it to another."


class Collinear(CeibaError):
    code, fault, status = "collinear", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The column {column} is a combination of those before it."
    remedy = "Leave it or one of the others out."


class Separation(CeibaError):
    code, fault, status = "separation", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The coefficient of {column} grows without end: together with the others it predicts the outcome perfectly."
    remedy = "Leave it out, join its rare levels, or ask for a cross table of it and the outcome."


class NotConverged(CeibaError):
    code, fault, status = "not_converged", Fault.CALLER, "FAILED_PRECONDITION"
    text = "The fit has not converged after {iterations} iterations."
    remedy = "Leave out columns that hardly vary, or allow more iterations."


class WeightsConcentrated(CeibaError):
    code, fault, status = "weights_concentrated", Fault.POLICY, "FAILED_PRECONDITION"
    text = "At one step of the fit fewer subjects than an answer must have carry nearly all of the weight."
    remedy = "Check the weights and the offset, use logarithms of skewed columns, or leave out rare levels."


class NotFinite(CeibaError):
    code, fault, status = "not_finite", Fault.CALLER, "FAILED_PRECONDITION"
    text = "At one step of the fit {what} is too large for a number, or none."
    remedy = "Scale the columns in the formula, use logarithms of skewed ones, and check offset and weights."


class NoEvents(CeibaError):
    code, fault, status = "no_events", Fault.CALLER, "FAILED_PRECONDITION"
    text = "Nobody in {what} has the event, so there is nothing to learn from."
    remedy = "Check the event's column and the filter."


class ClusterTooSmall(CeibaError):
    code, fault, status = "cluster_too_small", Fault.POLICY, "FAILED_PRECONDITION"
    text = "One of the clusters has fewer than {least} rows, as few as no answer may have."
    remedy = "Ask for fewer clusters."


# --- linkage ---------------------------------------------------------------------------------------------------


class BadGroupElement(CeibaError):
    code, fault, status = "bad_group_element", Fault.PEER, "INVALID_ARGUMENT"
    text = "The points of {member} for the linkage are refused: {problem}."
    remedy = "The sender's software differs from the protocol; compare the Ceiba versions."


class BadKeyUse(CeibaError):
    code, fault, status = "bad_key_use", Fault.PEER, "INVALID_ARGUMENT"
    text = "The proof of {member} about its key for the linkage is refused: {problem}."
    remedy = "It may try to decide which identifiers match. Ask {member} which version it runs before you link again."


class BadTokens(CeibaError):
    code, fault, status = "bad_tokens", Fault.PEER, "INVALID_ARGUMENT"
    text = "The tokens of {member} are refused: {problem}."
    remedy = "The sender's software differs from the protocol; compare the Ceiba versions."


class CountNotKept(CeibaError):
    code, fault, status = "count_not_kept", Fault.PEER, "FAILED_PRECONDITION"
    text = "{member} announced {announced} identifiers for the linkage and does not keep to it: {problem}."
    remedy = "More of them would be guesses about others' subjects. Ask {member}, and start the job again."


class RepeatedIdentifier(CeibaError):
    code, fault, status = "repeated_identifier", Fault.US, "FAILED_PRECONDITION"
    text = "An identifier occurs more than once in the dataset of {holder}, and a linkage takes each once."
    remedy = "Publish the dataset with one row for each identifier, or have its duplicates aggregated."


class LinkageTooLarge(CeibaError):
    code, fault, status = "linkage_too_large", Fault.POLICY, "RESOURCE_EXHAUSTED"
    text = "{member} announced {announced} identifiers for the linkage; {limit} are allowed in a job."
    remedy = "Publish a dataset of fewer subjects for it, or have houses allow more: `subjects_per_job` in policy.toml."


class IntersectionTooSmall(CeibaError):
    code, fault, status = "intersection_too_small", Fault.POLICY, "FAILED_PRECONDITION"
    text = "Fewer than {minimum} subjects are at all holders, as few as no answer may have."
    remedy = (
        "Check that all holders' identifiers are of one kind; otherwise, ask about larger datasets. In a job with "
        "noise a base counts them with noise: a higher ρ has less."
    )


# --- linkage: joined aggregates --------------------------------------------------------------------------------


class BadJoin(CeibaError):
    code, fault, status = "bad_join", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The join of {base} with {joined} cannot be run: {problem}."
    remedy = "Publish datasets again that have outgrown their announced sizes; otherwise mend the question."


class ExactJoinForbidden(CeibaError):
    code, fault, status = "exact_join_forbidden", Fault.POLICY, "PERMISSION_DENIED"
    text = "{joined} gives {base} no exact sums: it cannot see how many subjects are really in a group of {base}."
    remedy = "Ask with noise, `run(noise=True)`, or agree on `joiner_is_semi_honest`, which {joined} signs."


class JoinOutOfOrder(CeibaError):
    code, fault, status = "join_out_of_order", Fault.PEER, "FAILED_PRECONDITION"
    text = "{member} was asked for the step {step} of a join out of its order, or again, or after a step had failed."
    remedy = "Each step happens once. Run the join as a new job; nothing of this one is kept."


class BadIdentifier(CeibaError):
    code, fault, status = "bad_identifier", Fault.CALLER, "INVALID_ARGUMENT"
    text = "An identifier is no {kind}: its {flaw} is wrong."
    remedy = "Compare it with the document that it was copied from."


class NotAnIdentifier(CeibaError):
    code, fault, status = "not_an_identifier", Fault.CALLER, "FAILED_PRECONDITION"
    text = "{column} is not declared as an identifier of {table}."
    remedy = "Agree on a schema that declares it under `identifiers`; docs/schema.md shows one."


class DuplicateIdentifier(CeibaError):
    code, fault, status = "duplicate_identifier", Fault.POLICY, "FAILED_PRECONDITION"
    text = "In {table}, an identifier in {column} stands more than once: {problem}."
    remedy = (
        "The holder corrects its register, or publishes one row for each subject; a question groups by columns in "
        "which all rows of a subject agree."
    )


# --- linkage: scoring and consent ------------------------------------------------------------------------------


class BadScoreModel(CeibaError):
    code, fault, status = "bad_score_model", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The scoring model is not acceptable: {problem}."
    remedy = "Change its features or points, and register it as a new model."


class BinTooSmall(CeibaError):
    code, fault, status = "bin_too_small", Fault.POLICY, "FAILED_PRECONDITION"
    text = "A bin of the feature {feature} has fewer than {least} subjects at {holder}, as few as no answer may have."
    remedy = "Join rare bins to others, and register the model anew."


class ScoreSaysTooMuch(CeibaError):
    code, fault, status = "score_says_too_much", Fault.POLICY, "FAILED_PRECONDITION"
    text = (
        "A private score of {bits} bits could say half or more of what the model's bins say of a subject, which is "
        "{say} bits."
    )
    remedy = (
        "Make the points coarser, so that their sums fit {fits} bits; or bin more columns, until the numbers of bins "
        "multiplied make {needed} bits; or register a product, whose points the holders see."
    )


class UnknownScoreModel(CeibaError):
    code, fault, status = "unknown_score_model", Fault.CALLER, "NOT_FOUND"
    text = "There is no scoring model {model} for this member."
    remedy = "Use the digest that `register_model()` returned, with the identity that registered it."


class ScoreModelNotReady(CeibaError):
    code, fault, status = "score_model_not_ready", Fault.POLICY, "FAILED_PRECONDITION"
    text = "The scoring model {model} cannot be used: {problem}."
    remedy = "`model.status()` says which holders have approved it; once it is over, register a new one."


class ScoreUnanswered(CeibaError):
    code, fault, status = "score_unanswered", Fault.US, "DEADLINE_EXCEEDED"
    text = "The score was not answered in time by {holders}."
    remedy = "Send the same request again when they are reachable: what the others have answered is not used up."


class UnknownConsentIssuer(CeibaError):
    code, fault, status = "unknown_consent_issuer", Fault.POLICY, "PERMISSION_DENIED"
    text = "The agreement does not name {issuer} as an issuer of consents."
    remedy = "Ask an issuer that the agreement names for the consent."


class ConsentForged(CeibaError):
    code, fault, status = "consent_forged", Fault.POLICY, "UNAUTHENTICATED"
    text = "The signature on the consent is not that of {issuer}, as the agreement has its key."
    remedy = "Use the consent as the issuer gave it; if the issuer has changed keys, a new agreement says so."


class ConsentForOtherMerchant(CeibaError):
    code, fault, status = "consent_for_other_merchant", Fault.POLICY, "PERMISSION_DENIED"
    text = "The consent is not for {merchant}."
    remedy = "Ask the subject for a consent of its own: it cannot be passed on."


class ConsentForOtherPurpose(CeibaError):
    code, fault, status = "consent_for_other_purpose", Fault.POLICY, "PERMISSION_DENIED"
    text = "The consent is for another purpose than the model's."
    remedy = "Ask the subject for a consent to this purpose."


class ConsentForOtherModel(CeibaError):
    code, fault, status = "consent_for_other_model", Fault.POLICY, "PERMISSION_DENIED"
    text = "The consent is for another model."
    remedy = "Score with the model that the subject agreed to, or ask for a consent to this one."


class ConsentForOtherHolders(CeibaError):
    code, fault, status = "consent_for_other_holders", Fault.POLICY, "PERMISSION_DENIED"
    text = "The consent is not for exactly these holders: {holders}."
    remedy = "Ask the subject for a consent that names all holders of the model."


class ConsentForOtherSubject(CeibaError):
    code, fault, status = "consent_for_other_subject", Fault.POLICY, "PERMISSION_DENIED"
    text = "The consent is not of the subject that was asked about."
    remedy = "Give the identifier as the subject gave it to the issuer, with the salt that came with the consent."


class ConsentNotYetValid(CeibaError):
    code, fault, status = "consent_not_yet_valid", Fault.POLICY, "FAILED_PRECONDITION"
    text = "The consent begins at {at}, and it is {now} here."
    remedy = "Wait until it has begun, and check the clocks: 5 minutes of difference are allowed."


class ConsentExpired(CeibaError):
    code, fault, status = "consent_expired", Fault.POLICY, "FAILED_PRECONDITION"
    text = "The consent ended at {at}, and it is {now} here."
    remedy = "Ask the subject for a new one; a consent lasts a day at most."


class ConsentUsed(CeibaError):
    code, fault, status = "consent_used", Fault.POLICY, "ALREADY_EXISTS"
    text = "The consent was used before, and each is for one score."
    remedy = "Ask the subject for a new one."


# --- the log ---------------------------------------------------------------------------------------------------


class LogProofFailed(CeibaError):
    code, fault, status = "log_proof_failed", Fault.PEER, "DATA_LOSS"
    text = "The log's proof does not hold: {problem}."
    remedy = (
        "The operator's log was changed, forked or restored from an old copy. Keep the files as evidence and compare "
        "checkpoints with the other holders; `ceiba-node resume log` lifts it once the cause is known and mended."
    )


class LedgerRolledBack(CeibaError):
    code, fault, status = "ledger_rolled_back", Fault.US, "DATA_LOSS"
    text = "The log has a document ({document}) of this member from second {at} of Unix time; its own ledger has none."
    remedy = (
        "The ledger is an old copy, or somebody else uses this member's keys: nothing is signed or sent. Restore the "
        "newest ledger; if there is none, be revoked and join under another name. docs/hospital.md says how."
    )


class ReceiptRejected(CeibaError):
    code, fault, status = "receipt_rejected", Fault.PEER, "DATA_LOSS"
    text = "The receipt fails at step {step}: {problem}"
    remedy = "Do not rely on the result. Keep the receipt, and ask the holders that it names."


# --- the lab ---------------------------------------------------------------------------------------------------


class UnknownStory(CeibaError):
    code, fault, status = "unknown_story", Fault.CALLER, "NOT_FOUND"
    text = "There is no story {story}; the nearest name is {nearest}."
    remedy = "`ceiba-lab list` lists the stories; a file of your own ends in .py."


class BadStory(CeibaError):
    code, fault, status = "bad_story", Fault.CALLER, "INVALID_ARGUMENT"
    text = "The story {story} cannot be run: {problem}."
    remedy = "A story is a Python file with `def run(lab)`; `ceiba-lab run --help` shows one."


# --- this process ----------------------------------------------------------------------------------------------


class NotReachable(CeibaError):
    code, fault, status = "not_reachable", Fault.US, "UNAVAILABLE"
    text = "{target} cannot be reached: {problem}."
    remedy = "Check the address, the network and that the coordinator is running."


class TooManyCalls(CeibaError):
    code, fault, status = "too_many_calls", Fault.CALLER, "RESOURCE_EXHAUSTED"
    text = "{member} has {limit} calls open already, which is as many as one member may have."
    remedy = "Close some; if nobody opened them, look for another program that uses this member's keys."


class TooSlow(CeibaError):
    code, fault, status = "too_slow", Fault.CALLER, "DEADLINE_EXCEEDED"
    text = "The next part of {message} did not come within {seconds} s."
    remedy = "Try again; if it stays like this, look at the line between this machine and the coordinator."


class MessageTooLarge(CeibaError):
    code, fault, status = "message_too_large", Fault.PEER, "RESOURCE_EXHAUSTED"
    text = "{message} is larger than the limit of {limit} bytes."
    remedy = "Ask a smaller question."


class LedgerDamaged(CeibaError):
    code, fault, status = "ledger_damaged", Fault.US, "DATA_LOSS"
    text = "The state file {path} cannot be used: {problem}."
    remedy = "The node stays stopped rather than forget what it answered: restore the newest backup of the file."


class MissingExtra(CeibaError):
    code, fault, status = "missing_extra", Fault.CALLER, "FAILED_PRECONDITION"
    text = "{feature} needs {package}, which is not installed."
    remedy = "Install it: pip install '{package}'"


class InternalError(CeibaError):
    code, fault, status = "internal_error", Fault.US, "INTERNAL"
    text = "Something went wrong inside {component}; the details are in its log under the id {incident}."
    remedy = "Give the id to the operator of {component}."


def _subclasses(kind: type[CeibaError]) -> dict[str, type[CeibaError]]:
    return {sub.code: sub for sub in kind.__subclasses__()}


ERRORS: dict[str, type[CeibaError]] = _subclasses(CeibaError)
"""Every error by its stable code."""


def error_from(code: str, fields: dict[str, str]) -> CeibaError:
    """The error that another process named; a code or fields of a newer version become an InternalError."""
    kind = ERRORS.get(code)
    try:
        return kind.from_fields(fields) if kind else InternalError(component="another member", incident=code)
    except KeyError:
        return InternalError(component="another member", incident=code)
