"""Everything bad that can come in, and which tests show what then happens. A test that goes away is missed here."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

SHOWN_BY = {
    "unknown table: the nearest name": [
        "sdk/test_sql.py::test_unknown_names_say_the_nearest",
        "protocol/test_roster.py::test_unknown_table_names_the_nearest",
    ],
    "unknown column: the nearest name": [
        "protocol/test_schema.py::test_an_unknown_column_names_the_nearest",
        "sdk/test_query.py::test_typos_name_the_nearest_column_and_hasattr_works",
    ],
    "column without a domain in GROUP BY": [
        "protocol/test_plan.py::test_a_column_without_a_domain_cannot_be_grouped_by_and_the_error_says_what_to_declare",
    ],
    "SQL outside the subset": ["sdk/test_sql.py::test_refuses_by_name_with_the_place_and_a_hint"],
    "any text as SQL": ["sdk/test_sql.py::test_no_text_gives_anything_but_a_named_error"],
    "text, NaN, infinities, NULLs, out of bounds in a numeric column": ["node/test_publishing.py::test_each_rule"],
    "more groups than the limit": ["protocol/test_plan.py::test_more_cells_than_the_limit_are_refused"],
    "overflow of a slot": [
        "protocol/test_layout.py::test_one_beyond_its_bound_is_refused",
        "protocol/test_rounds.py::test_value_beyond_the_published_capacity_is_never_sent",
    ],
    "empty table": ["node/test_publishing.py::test_an_empty_table_is_refused"],
    "offline holder": [
        "attacks/test_transport.py::test_job_waits_for_an_offline_holder_and_says_so",
        "attacks/test_transport.py::test_deadline_ends_a_job_and_names_who_was_away",
    ],
    "SIGKILL of a holder": ["attacks/test_crashes.py::test_holder_killed_at_each_step"],
    "SIGKILL of the coordinator": [
        "attacks/test_crashes.py::test_coordinator_killed_at_each_step",
        "attacks/test_crashes.py::test_coordinator_killed_while_it_takes_a_job",
    ],
    "duplicate, truncated, oversized, malformed messages": [
        "attacks/test_transport.py::test_malformed_answers_are_refused_and_the_right_one_still_counts",
        "attacks/test_transport.py::test_oversized_message_is_refused",
        "attacks/test_transport.py::test_garbage_bytes_are_refused_and_tell_nothing",
        "protocol/test_documents.py::test_other_form_is_refused",
    ],
    "wrong certificate": [
        "attacks/test_transport.py::test_certificate_of_another_ca",
        "attacks/test_transport.py::test_minted_certificate_admits_nobody",
    ],
    "expired certificate": [
        "attacks/test_transport.py::test_certificate_out_of_its_time",
        "attacks/test_renewal.py::test_connecting_with_an_ended_certificate_says_what_to_do",
        "protocol/test_renewal.py::test_wrong_certificate_is_not_taken",
    ],
    "two holders that disagree": [
        "protocol/test_rounds.py::test_disagreement_never_gives_a_number",
        "protocol/test_rounds.py::test_two_manifests_of_one_job_never_give_a_number",
    ],
    "a second, different set": ["node/test_answering.py::test_second_different_set_is_refused"],
    "damaged ledger": ["node/test_ledger.py::test_damaged_ledger_is_refused_and_left_as_it_is"],
    "sealed keys: another passphrase, a changed file, costly parameters": [
        "protocol/test_sealing.py::test_another_passphrase_opens_nothing",
        "protocol/test_sealing.py::test_every_changed_byte_is_refused",
        "protocol/test_sealing.py::test_other_parameters_and_forms_are_refused_before_a_key_is_derived",
    ],
    "no error text has a row's value or DuckDB's words": [
        "node/test_publishing.py::test_no_value_is_in_any_error_or_report",
        "node/test_engine.py::test_a_damaged_file_is_named_without_duckdbs_words",
        "node/test_answering.py::test_engine_failure_is_refused_without_a_value",
        "attacks/test_leaks.py::test_logs_and_ledgers_of_holders_have_no_value",
    ],
}


@cache
def functions_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("what", SHOWN_BY)
def test_is_shown_by_tests_that_exist(what: str) -> None:
    for place in SHOWN_BY[what]:
        file, _, name = place.partition("::")
        assert name in functions_in(file), place
