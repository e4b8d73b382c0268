"""Grouped private join and compute: GROUP BY an attribute of one holder, SUM values of another (PROTOCOL §5.4).

The *base* holder A knows each subject's group, the *joined* holder B its cells and values. `run_join` at the end is all
of it in order; with several joined holders each has the same exchange with the base, a star. A may have several
*groupings* of its subjects, by one feature each; then there is a table of B's cells for each of them.

| step | message | from → to |
|---|---|---|
| 1 | `groups`: a·H(id) for each subject of each group, padded, shuffled within; a for each grouping; filled | A → B |
| 2 | `rows`: b·(a·H(id)), shuffled, filled; (b·H(id), Enc_B(row)) for each subject of B, padded, shuffled | B → A |
| 3 | `mask`: for each group Π Enc_B(row) of those that match, times Enc_B(mask)·r^n | A → B |
| 4 | `tests`: B decrypts sum + mask, its share; ElGamal encryptions of its share of each count | B → A |
| 5 | `test`: for each forbidden value an encryption of (count − value)·s, shuffled | A → B |
| 6 | `decide`: which cells may be released, to A; B's share of them, to the merchant | B → A, M |
| 7 | `share`: A's share of the cells that may be released, to the merchant | A → M |
| 8 | `merchant_open`: the difference of the two shares | M |

**Who learns what.** A: how many subjects of each group B has, and which cells are released. B: the padded sizes of the
groups, and which cells are released. The merchant: the released counts and sums. The lengths of messages, which the
merchant has in its receipt, follow from the terms alone: where there are fewer points than the terms allow, zero bytes
fill up, so that the padded sizes are read by B and nobody else. This rests on decisional Diffie–Hellman in
ristretto255 with H as a random oracle, on DCR, and on short exponents for what B encrypts (PROTOCOL §2.3). What B
decrypts in step 4 is uniform, whatever it sent as rows.

With several groupings B learns the padded sizes of each one's groups. Under another a the same subject is another
point, so B cannot see which points of two groupings are one subject. A must not see either which rows of B are one, or
it would learn how many subjects of each *combination* of its groups B has; of many groupings that is who they are. So
the rows of step 2 are there once for each grouping, with another b, encrypted and shuffled anew, and A learns what it
would learn from as many joins. Only if A knows anyway which of its subjects B has, as in the mode that reveals the
intersection, the terms say `one_row_for_all`: B encrypts each row once, and A multiplies its point by every a.

**What is taken on trust.** B cannot see how many subjects are in a "group" of A. If it is one, and random points, A
learns from the decision which cells that subject is in, and with the merchant its values. Padding, the smallest size of
a group and the gate do not stop that; noise does, which is in what the gate tests as well. So B answers without noise
only if the agreement has the flag `joiner_is_semi_honest`, which B signs. A adds as much of its own, so that B with the
merchant does not learn either who is in A's groups. Noise does not cover an A that computes something else than this
sum, such as one row a million times: nothing here proves what A multiplied. In the gate B could encrypt another share
than its own, and so learn whether a count lies in another range, or release to the merchant what it found to be small.

Noise is drawn anew for each job, also for a question that was answered before: with the same noise, an A that leaves
one subject out the second time would see it in the difference (ADR 0027). Whether enough are in common is decided with
noise then as well, which A adds: else the merchant would read, for nothing, an exact number from which questions end.

Secrets live as long as the two objects do, one job. Nothing is stored: whoever holds the objects drops them after the
last step or any error, and a side that has failed refuses every later step.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

import phe
from gmpy2 import mpz

from ceiba_protocol.canonical import sha256
from ceiba_protocol.disclosure.noise import KeyedBits, discrete_gaussian
from ceiba_protocol.errors import (
    ExactJoinForbidden,
    IntersectionTooSmall,
    MalformedMessage,
    RepeatedIdentifier,
    TotalRejected,
)
from ceiba_protocol.linkage.cores import Progress, on_all_cores
from ceiba_protocol.linkage.full_obfuscators import FullObfuscators
from ceiba_protocol.linkage.join_messages import (
    SIZE_BYTES,
    Exchange,
    bitmap_bytes,
    distinct_points,
    filled,
    read_bitmap,
    read_share,
    read_sizes,
    without_filling,
    write_bitmap,
    write_share,
    write_sizes,
)
from ceiba_protocol.linkage.join_terms import GROUP_MULTIPLE, JoinTerms, padded
from ceiba_protocol.linkage.masked_fields import Cell, FieldShape, MaskedFields, Row, Share, check_rows
from ceiba_protocol.linkage.ristretto import (
    POINT_BYTES,
    Point,
    decode_points,
    encode_points,
    hash_all,
    hash_to_group,
    multiply,
    multiply_all,
    random_point,
    random_scalar,
)
from ceiba_protocol.linkage.strict_gate import PAIR_BYTES, GateKey, blind_tests, encrypt_shares, read_tests
from ceiba_protocol.sums.key_proof import prove_key, verify_key
from ceiba_protocol.sums.layout import split_digits
from ceiba_protocol.sums.paillier import (
    Encryptor,
    ciphertext_bytes,
    decode_ciphertexts,
    decrypt,
    encode_ciphertexts,
    key_id,
)
from ceiba_protocol.sums.randomness import Random, random_order

_Result = TypeVar("_Result")
_BATCH = 256
"""Rows at a time, on each core: 0.4 s of encryptions."""


class ProvenKey:
    """A holder's Paillier modulus with its correct-key proof verified; there is no other way to have one (I6).

    Raises KeyTooShort or BadKeyProof. Takes 0.1 s at 3072 bits; may be kept for as long as n, proof and context stay.
    """

    def __init__(self, n: int, proof: bytes, context: bytes) -> None:
        verify_key(n, proof, context)
        self.n = int(n)

    def __repr__(self) -> str:
        return f"ProvenKey(key_id={key_id(self.n).hex()})"


def bytes_of_rows(terms: JoinTerms, n: int) -> int:
    """Of what a joined holder with this modulus sends in step 2, whoever is in the groups."""
    row = POINT_BYTES + MaskedFields(terms.cells, n.bit_length()).plaintexts * ciphertext_bytes(n)
    return (terms.most_points + 1) * POINT_BYTES + terms.row_sets * terms.joined_subjects * row


# --- noise -----------------------------------------------------------------------------------------------------


def fresh_noise(terms: JoinTerms, random: Random) -> list[list[int]]:
    """Run by each of the two: what it adds to the count and each sum of every cell; nothing if the answer is exact."""
    bits = KeyedBits(random(32))
    return [[discrete_gaussian(bits, variance) for variance in cell.noise] for cell in terms.shapes if cell.noise]


def noise_in_common(terms: JoinTerms, random: Random) -> int:
    """Run by the base: what it adds to the number in common before it says whether that is enough; 0 if the answer is
    exact. Its variance is that of one holder's noise in a count: nobody but the base would add another share."""
    noise = terms.cells[0].noise
    return discrete_gaussian(KeyedBits(random(32)), noise[0]) if noise else 0


def _noise_of_shares(terms: JoinTerms, holder: str, noise: Sequence[Sequence[int]]) -> list[Share]:
    """What a holder adds to every cell. Raises BadJoin for noise of another shape than the terms have."""
    if [len(drawn) for drawn in noise] != [len(cell.noise) for cell in terms.shapes if cell.noise]:
        raise terms.bad(f"the noise of {holder} is not that of every count and sum, or there should be none")
    if not noise:
        return [(0, 0)] * len(terms.shapes)
    return [(count, cell.values_field(sums)) for cell, (count, *sums) in zip(terms.shapes, noise, strict=True)]


# --- the base holder -------------------------------------------------------------------------------------------


class BaseSide:
    """A: knows the groups. Its steps, each once: `groups`, `mask`, `test`, `share`.

    `groupings` has, for each grouping of the terms, the normalised identifiers of each group; an identifier is in at
    most one group of each. Nothing is released of groups that are `vetoed`, numbered grouping after grouping, nor of
    the exact tables that they are in; to B they look as if their counts were too small. `noise` is A's, of the shape of
    B's (see `fresh_noise`). `obfuscators` may be made ahead; what is missing is made when it is needed. Raises BadJoin
    if groups or noise are not as the terms say, RepeatedIdentifier, ValueOutOfRange if the cells do not fit under the
    key.
    """

    def __init__(
        self,
        terms: JoinTerms,
        groupings: Sequence[Sequence[Sequence[bytes]]],
        key: ProvenKey,
        random: Random,
        *,
        noise: Sequence[Sequence[int]] = (),
        obfuscators: FullObfuscators | None = None,
        vetoed: Collection[int] = (),
    ) -> None:
        if tuple(map(len, groupings)) != terms.groupings:
            raise terms.bad(f"{terms.base} has another number of groups than it announced")
        for groups in groupings:
            everyone = [identifier for group in groups for identifier in group]
            if len(everyone) > terms.base_subjects:
                raise terms.bad(f"{terms.base} has more subjects than it announced")
            if len(set(everyone)) != len(everyone):
                raise RepeatedIdentifier(holder=terms.base)
        if obfuscators is not None and obfuscators.n != key.n:
            raise terms.bad(f"the obfuscators of {terms.base} are for another key")
        self._exchange = Exchange(terms, terms.base, key.n, ("groups", "mask", "test", "share"))
        self._obfuscators = obfuscators or FullObfuscators(key.n, random)
        self._noise = _noise_of_shares(terms, terms.base, noise)
        self._vetoed = [group in vetoed for group in range(terms.groups) for _ in terms.cells]
        self._groups = [group for groups in groupings for group in groups]
        self._sizes = [max(padded(len(group)), terms.smallest_group) for group in self._groups]
        self._random = random
        self._secrets = [random_scalar(random) for _ in groupings]

    def groups(self) -> bytes:
        """Step 1, to B: the padded size of each group, 4 bytes; then the points of all groups, 32 bytes each, and zero
        bytes up to `most_points` of them.

        Random points pad: nobody can tell them from blinded identifiers, and they match nothing. 0.1 ms for each
        subject and grouping.
        """
        with self._exchange.step("groups"):
            terms, random = self._exchange.terms, self._random
            points: list[Point] = []
            for grouping, group, size in zip(terms.grouping_of, self._groups, self._sizes, strict=True):
                blinded = multiply_all(self._secrets[grouping], hash_all(group, terms.hash_domain()))
                blinded += [random_point(random) for _ in range(size - len(group))]
                points += [blinded[place] for place in random_order(random, size)]
            room = terms.most_points * POINT_BYTES
            return self._exchange.seal("groups", write_sizes(self._sizes), filled(encode_points(points), room))

    def mask(self, rows: bytes, progress: Progress | None = None) -> bytes:
        """Step 3, to B: for each group, empty or not, the ciphertexts of the sum of its rows plus a mask.

        Randomised with full entropy, because B owns the key and knows every row: from a short exponent it could find
        out which rows were multiplied (PROTOCOL §2.3 rule 3). Raises MalformedMessage, BadGroupElement, BadCiphertext,
        IntersectionTooSmall. 0.1 ms for each row and grouping; 33 ms for each ciphertext without an obfuscator ready.
        """
        with self._exchange.step("mask"):
            terms, fields, n = self._exchange.terms, self._exchange.fields, mpz(self._exchange.n)
            # 1. Multiply B's points by a, and in each group the ciphertexts of those that are in it.
            matched, products = self._match(*self._read_rows(rows), progress)
            # 2. Too few in common in a grouping: end here. That there were too few is all that B learns, and it is one
            #    more figure of the answer: one subject more changes the smallest number by one, and so it has noise.
            least = terms.smallest_intersection
            if least and min(matched) + noise_in_common(terms, self._random) < least:
                raise IntersectionTooSmall(minimum=least)
            # 3. Mask, then randomise: a uniform ciphertext of a uniform plaintext, whichever rows were multiplied.
            of_groups = [fields.draw_masks(int(n), self._random) for _ in range(terms.groups)]
            own = (mask for masks in of_groups for mask in fields.split(masks))
            # A figure is B's share less A's mask, so what is to be added to it is taken from the mask.
            self._masks = [
                (count - less, values - less_values)
                for (count, values), (less, less_values) in zip(own, self._noise, strict=True)
            ]
            packed = [mask for masks in of_groups for mask in masks]
            obfuscators = on_all_cores(lambda _: self._obfuscators.take(), packed)
            masked = [
                product * (1 + n * mask) * obfuscator % n**2
                for product, mask, obfuscator in zip(products, packed, obfuscators, strict=True)
            ]
            return self._exchange.seal("masked sums", encode_ciphertexts(masked, self._exchange.n))

    def _read_rows(self, rows: bytes) -> tuple[Mapping[Point, int], list[Point], memoryview]:
        """Which group a point is in; the points of B's rows; their ciphertexts, not yet checked."""
        terms, joined = self._exchange.terms, self._exchange.terms.joined
        count, most = terms.row_sets * terms.joined_subjects, terms.most_points
        body = self._exchange.open("rows", rows, joined, bytes_of_rows(terms, self._exchange.n))
        first, second, third = (POINT_BYTES * number for number in (most, most + 1, most + 1 + count))
        grouped = without_filling(body[:first], sum(self._sizes) * POINT_BYTES, f"rows of {joined}")
        evaluated = distinct_points(grouped, "rows", joined)
        self._gate_key = decode_points(bytes(body[first:second]), joined)[0]
        groups = (group for group, size in enumerate(self._sizes) for _ in range(size))
        points = distinct_points(body[second:third], "rows", joined)
        return dict(zip(evaluated, groups, strict=True)), points, body[third:]

    def _match(
        self, group_of: Mapping[Point, int], points: Sequence[Point], encoded: memoryview, progress: Progress | None
    ) -> tuple[list[int], list[mpz]]:
        """How many rows are in a group of each grouping, and for each group the products of their ciphertexts.

        Every ciphertext is checked, not only those that match: else B would see from an error which rows do.
        """
        terms, n, plaintexts = self._exchange.terms, self._exchange.n, self._exchange.fields.plaintexts
        row_bytes, square = plaintexts * ciphertext_bytes(n), mpz(n) ** 2

        def groups(place: int) -> Iterator[int]:
            """Those that a row is in, of the groupings for which it was sent."""
            for grouping, secret in enumerate(self._secrets):
                if terms.row_set_of(grouping) == place // terms.joined_subjects:
                    group = group_of.get(multiply(secret, points[place]))
                    if group is not None:
                        yield group

        def match(batch: range) -> list[tuple[int, list[mpz]]]:
            units = decode_ciphertexts(
                bytes(encoded[batch.start * row_bytes : batch.stop * row_bytes]), n, terms.joined
            )
            rows = [units[start : start + plaintexts] for start in range(0, len(units), plaintexts)]
            return [(group, row) for place, row in zip(batch, rows, strict=True) for group in groups(place)]

        matched, products = [0] * len(terms.groupings), [mpz(1)] * (terms.groups * plaintexts)
        for found in _in_batches(match, len(points), progress):
            for group, row in found:
                matched[terms.grouping_of[group]] += 1
                for place, unit in enumerate(row, start=group * plaintexts):
                    products[place] = products[place] * unit % square
        return matched, products

    def test(self, tests: bytes) -> bytes:
        """Step 5, to B: for each cell of each group one encryption for every count that it must not have, shuffled.

        Raises MalformedMessage, BadGroupElement. 0.3 ms for each such count.
        """
        with self._exchange.step("test"):
            terms = self._exchange.terms
            body = self._exchange.open("tests", tests, terms.joined, len(terms.shapes) * PAIR_BYTES)
            forbidden = [terms.forbidden(cell) for cell in terms.shapes]
            masks, key = [count for count, _ in self._masks], self._gate_key
            blinded = blind_tests(bytes(body), key, masks, forbidden, self._vetoed, self._random, terms.joined)
            return self._exchange.seal("tested", blinded)

    def share(self, decision: bytes) -> bytes:
        """Step 7, to the merchant: the masks of the cells that are released, and of no others.

        Raises MalformedMessage.
        """
        with self._exchange.step("share"):
            terms = self._exchange.terms
            body = self._exchange.open("decision", decision, terms.joined, bitmap_bytes(terms))
            released = read_bitmap(bytes(body), terms, f"decision of {terms.joined}")
            return write_share(terms, terms.base, released, self._masks)


# --- the joined holder -----------------------------------------------------------------------------------------


class JoinedSide:
    """B: knows cells and values, and owns the Paillier key. Its steps, each once: `rows`, `tests`, `decide`.

    `rows` has for each normalised identifier what its subject adds. A subject that a filter leaves out is there, with
    nothing to add, so that A does not learn how many a filter leaves. `noise` has for each cell of each group what B
    adds to its count and to each sum; its variances are in the terms.
    `joiner_is_semi_honest` says that the agreement has that flag, signed by B. `encryptor` is one for B's own key, made
    ahead, with obfuscators or without. `vetoed`: of the terms' cells those that B releases of no group, nor the exact
    tables that they are in.

    Raises ExactJoinForbidden without noise and flag; BadJoin, MalformedMessage or SlotOverflow for what the terms do
    not cover; ValueOutOfRange if the cells do not fit under the key.
    """

    def __init__(
        self,
        terms: JoinTerms,
        rows: Mapping[bytes, Row],
        private_key: phe.PaillierPrivateKey,
        random: Random,
        *,
        joiner_is_semi_honest: bool = False,
        noise: Sequence[Sequence[int]] = (),
        encryptor: Encryptor | None = None,
        vetoed: Collection[int] = (),
    ) -> None:
        if not (terms.noisy or joiner_is_semi_honest):
            raise ExactJoinForbidden(base=terms.base, joined=terms.joined)
        n = int(private_key.public_key.n)
        if len(rows) > terms.joined_subjects:
            raise terms.bad(f"{terms.joined} has more subjects than it announced")
        if encryptor is not None and encryptor.n != n:
            raise terms.bad(f"the encryptor of {terms.joined} is for another key")
        check_rows(terms.cells, rows.values())
        self._exchange = Exchange(terms, terms.joined, n, ("rows", "tests", "decide"))
        self._rows = rows
        self._noise = _noise_of_shares(terms, terms.joined, noise)
        self._private_key = private_key
        self._encryptor = encryptor
        self._may_be_released = [cell not in vetoed for cell in range(len(terms.cells))] * terms.groups
        self._random = random
        self._secrets = [random_scalar(random) for _ in range(terms.row_sets)]
        self._gate_key = GateKey.draw(random)

    def rows(self, groups: bytes, progress: Progress | None = None) -> bytes:
        """Step 2, to A: A's points times b, shuffled within each group, with zero bytes up to `most_points`; B's gate
        key; B's rows, shuffled, as many times as the terms say.

        Of the rows first all points, 32 bytes each, then all ciphertexts. Where B has fewer subjects than announced,
        random points and encryptions of zero stand for the rest. Raises MalformedMessage for groups that are not as
        announced, BadGroupElement. A row takes 0.1 ms, and 1.4 ms for each of its plaintexts under a 3072-bit key, each
        time that it is sent.
        """
        with self._exchange.step("rows"):
            terms, evaluated = self._exchange.terms, list[Point]()
            for grouping, group in zip(terms.grouping_of, self._read_groups(groups), strict=True):
                multiplied = multiply_all(self._secrets[terms.row_set_of(grouping)], group)
                evaluated += [multiplied[place] for place in random_order(self._random, len(group))]
            points, ciphertexts = self._encrypt_rows(progress)
            own = filled(encode_points(evaluated), terms.most_points * POINT_BYTES)
            return self._exchange.seal("rows", own, encode_points([self._gate_key.public]), *points, *ciphertexts)

    def _read_groups(self, groups: bytes) -> list[list[Point]]:
        """The points of each group."""
        terms = self._exchange.terms
        what = f"groups of {terms.base}"
        whole = terms.groups * SIZE_BYTES + terms.most_points * POINT_BYTES
        sizes, body = read_sizes(self._exchange.open("groups", groups, terms.base, whole), terms.groups)
        if any(size % GROUP_MULTIPLE or size < terms.smallest_group for size in sizes):
            raise MalformedMessage(message=what, problem="a group is smaller than it may be, or not padded")
        for grouping, groups_in_it in enumerate(terms.groupings):
            points_in_it = sum(size for size, of in zip(sizes, terms.grouping_of, strict=True) if of == grouping)
            if points_in_it > terms.base_subjects + groups_in_it * terms.smallest_group:
                raise MalformedMessage(message=what, problem="they have more subjects than announced")
        own = without_filling(body, sum(sizes) * POINT_BYTES, what)
        points = iter(distinct_points(own, "groups", terms.base))
        return [[next(points) for _ in range(size)] for size in sizes]

    def _encrypt_rows(self, progress: Progress | None) -> tuple[list[bytes], list[bytes]]:
        """Points and ciphertexts of all rows, batch by batch; each time that they are sent in another random order."""
        terms, fields, n = self._exchange.terms, self._exchange.fields, self._exchange.n
        count, domain, random = terms.joined_subjects, terms.hash_domain(), self._random
        encryptor = self._encryptor or Encryptor.for_count(n, terms.row_sets * count * fields.plaintexts, random)
        subjects = [*self._rows.items(), *[(None, ())] * (count - len(self._rows))]
        order = [(secret, place) for secret in self._secrets for place in random_order(random, count)]

        def encrypt(batch: range) -> tuple[bytes, bytes]:
            points, ciphertexts = [], []
            for secret, place in order[batch.start : batch.stop]:
                identifier, row = subjects[place]
                if identifier is None:
                    points.append(random_point(random))
                else:
                    points.append(multiply(secret, hash_to_group(identifier, domain)))
                ciphertexts += [encryptor.encrypt(plaintext % n) for plaintext in fields.pack_row(row)]
            return encode_points(points), encode_ciphertexts(ciphertexts, n)

        batches = list(_in_batches(encrypt, len(order), progress))
        return [points for points, _ in batches], [ciphertexts for _, ciphertexts in batches]

    def tests(self, masked: bytes) -> bytes:
        """Step 4, to A: B's share of every count, encrypted under its gate key, 64 bytes each.

        A share is sum + mask + noise: the mask, A's, hides the sum from B, and the noise is B's. Raises
        MalformedMessage, BadCiphertext. 9 ms for each ciphertext under a 3072-bit key.
        """
        with self._exchange.step("tests"):
            terms, fields, n = self._exchange.terms, self._exchange.fields, self._exchange.n
            size = terms.groups * fields.plaintexts * ciphertext_bytes(n)
            body = self._exchange.open("masked sums", masked, terms.base, size)
            opened = decrypt(self._private_key, decode_ciphertexts(bytes(body), n, terms.base))
            of_groups = (opened[at : at + fields.plaintexts] for at in range(0, len(opened), fields.plaintexts))
            shares = [share for plaintexts in of_groups for share in fields.split(plaintexts)]
            self._shares = [
                (count + more, values + more_values)
                for (count, values), (more, more_values) in zip(shares, self._noise, strict=True)
            ]
            counts = [count for count, _ in self._shares]
            return self._exchange.seal("tests", encrypt_shares(counts, self._gate_key, self._random))

    def decide(self, tested: bytes) -> tuple[bytes, bytes]:
        """Step 6: to A, one bit a cell, set if it is released; to the merchant, the same and B's share of these cells.

        Raises MalformedMessage, BadGroupElement. 0.1 ms for each test.
        """
        with self._exchange.step("decide"):
            terms = self._exchange.terms
            counts = [len(terms.forbidden(cell)) for cell in terms.shapes]
            body = self._exchange.open("tested", tested, terms.base, sum(counts) * PAIR_BYTES)
            small = read_tests(bytes(body), self._gate_key, counts, terms.base)
            large = [may_be and not is_small for may_be, is_small in zip(self._may_be_released, small, strict=True)]
            released = terms.released(large)
            decision = self._exchange.seal("decision", write_bitmap(released))
            return decision, write_share(terms, terms.joined, released, self._shares)


def _in_batches(work: Callable[[range], _Result], count: int, progress: Progress | None) -> Iterator[_Result]:
    """work(batch) for batches of the rows 0 … count − 1, in order, with progress after each."""
    batches = [range(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH)]
    for batch, result in zip(batches, on_all_cores(work, batches), strict=True):
        yield result
        if progress is not None:
            progress(batch.stop, count)


# --- the merchant ----------------------------------------------------------------------------------------------


def merchant_open(terms: JoinTerms, base_share: bytes, joined_share: bytes) -> list[list[Cell]]:
    """Step 8, run by the merchant: for each group of each grouping and each cell, the count and sums, or None where it
    is withheld.

    Must hold before: each share's signature is verified. Raises MalformedMessage, or TotalRejected unless both released
    the same cells and every count and sum is one that the terms allow.
    """
    base_released, masks = read_share(base_share, terms, terms.base)
    released, shares = read_share(joined_share, terms, terms.joined)
    if base_released != released:
        raise TotalRejected(problem="the two holders released different cells")
    opened: list[Cell] = []
    for cell, is_released, mask, share in zip(terms.shapes, released, masks, shares, strict=True):
        if not is_released and (mask, share) != ((0, 0), (0, 0)):
            raise TotalRejected(problem="a cell that was withheld has figures")
        opened.append(_open_cell(terms, cell, mask, share) if is_released else None)
    width = len(terms.cells)
    return [opened[start : start + terms.released_cells] for start in range(0, len(opened), width)]


def _open_cell(terms: JoinTerms, cell: FieldShape, mask: Share, share: Share) -> tuple[int, tuple[int, ...]]:
    """share − mask, field by field, within the public bounds."""
    count, most = share[0] - mask[0], min(terms.base_subjects, terms.joined_subjects)
    if not -cell.count_tail <= count <= most + cell.count_tail or count in terms.forbidden(cell):
        raise TotalRejected(problem="a count is beyond its public bound, or too small to be released")
    sums = tuple(split_digits(share[1] - mask[1], cell.value_widths))
    if count == 0 and not cell.noise and any(sums):
        raise TotalRejected(problem="a cell without subjects has a sum")
    return count, sums


# --- all of it -------------------------------------------------------------------------------------------------


def run_join(
    terms: JoinTerms,
    groupings: Sequence[Sequence[Sequence[bytes]]],
    rows: Mapping[bytes, Row],
    private_key: phe.PaillierPrivateKey,
    random: Random,
) -> list[list[Cell]]:
    """The whole join without a network: the first page for a newcomer, and an oracle for tests.

    Left out, because they happen elsewhere: signatures, and sealing every message to its reader (`trust`); how
    identifiers are normalised (`identifiers`); the agreement, which here has the flag that exact answers need.
    """
    # B: makes a Paillier key once, and proves that it is well formed. A: verifies the proof before anything else.
    context = sha256("example/key-context", terms.joined.encode())
    key = ProvenKey(private_key.public_key.n, prove_key(private_key, context), context)

    # Each: fresh secrets for this join, and terms that it derived from the manifest itself.
    base = BaseSide(terms, groupings, key, random, noise=fresh_noise(terms, random))
    noise = fresh_noise(terms, random)
    joined = JoinedSide(terms, rows, private_key, random, joiner_is_semi_honest=True, noise=noise)

    # 1–3: whom both have, without showing identifiers; the encrypted sum of their rows, under a mask.
    blinded = base.groups()
    encrypted = joined.rows(blinded)
    masked = base.mask(encrypted)

    # 4–6: which cells are large enough; their counts stay hidden from both.
    shares = joined.tests(masked)
    tested = base.test(shares)
    decision, joined_share = joined.decide(tested)

    # 7, 8: the merchant takes the difference of the two shares of what is released.
    base_share = base.share(decision)
    return merchant_open(terms, base_share, joined_share)
