"""Everything bad that can come in or be tried, and which tests show what then happens. One that goes away is missed."""

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
    "a restored old ledger: nothing is signed": [
        "node/test_witness.py::test_a_fault_stops_the_node_for_good",
        "node/test_commands.py::test_while_the_log_is_at_fault_nothing_is_signed",
    ],
    "a lifted fault that still exists": ["node/test_witness.py::test_a_lifted_fault_that_still_exists_comes_back"],
    "overwritten bytes in a snapshot": [
        "node/test_publishing.py::test_overwritten_bytes_are_mended_by_publishing_again"
    ],
    "the name of a revoked member": [
        "coordinator/test_rosters.py::test_revocations_stay_and_only_another_name_can_join"
    ],
    "a slip in policy.toml": ["node/test_commands.py::test_status_names_the_key_that_is_wrong_in_the_policy"],
    "a purpose that would pass for a line of ours": [
        "node/test_commands.py::test_a_purpose_cannot_pass_for_a_line_of_ours"
    ],
    "sealed keys: another passphrase, a changed file, costly parameters": [
        "protocol/test_sealing.py::test_another_passphrase_opens_nothing",
        "protocol/test_sealing.py::test_every_changed_byte_is_refused",
        "protocol/test_sealing.py::test_other_parameters_and_forms_are_refused_before_a_key_is_derived",
    ],
    "a malformed identifier": [
        "protocol/test_identifiers.py::test_each_flaw",
        "node/test_published_identifiers.py::test_rows_without_a_good_key_are_set_aside_and_named_by_number",
        "node/test_published_identifiers.py::test_more_malformed_than_tolerated_is_refused",
        "node/test_published_identifiers.py::test_a_source_of_malformed_rows_alone_is_refused",
    ],
    "a duplicate identifier: rows of one subject add up once, never more": [
        "scenarios/test_joint_space.py::test_figures_by_groups_of_another_table_are_pandas_own",
        "scenarios/test_joint_space.py::test_a_base_whose_subjects_could_be_in_two_groups_is_refused_by_name",
        "node/test_published_identifiers.py::test_an_identifier_belongs_to_one_subject",
        "node/test_joined_rows.py::test_a_subject_in_two_groups_is_refused",
        "protocol/linkage/test_private_join.py::test_an_identifier_twice_is_refused",
        "protocol/linkage/test_private_join.py::test_a_point_that_comes_twice_is_refused",
    ],
    "an empty or too small intersection": [
        "scenarios/test_joint_space.py::test_too_few_in_common_is_refused_by_name",
        "node/test_linking_modes.py::test_few_in_common_are_not_even_counted",
        "protocol/linkage/test_private_join.py::test_too_small_an_intersection_ends_the_join",
        "protocol/linkage/test_private_join.py::test_an_empty_side_has_nothing_in_common",
        "protocol/linkage/test_oprf.py::test_an_intersection_below_the_minimum_is_not_told",
    ],
    "an expired consent": [
        "scenarios/test_scoring.py::test_a_consent_allows_what_it_says_and_nothing_else",
        "protocol/linkage/test_consent.py::test_a_consent_is_taken_from_its_beginning_to_its_end",
    ],
    "a replayed consent, also after a restart": [
        "scenarios/test_scoring.py::test_a_consent_is_used_once_also_after_the_holder_was_restarted",
        "node/test_scoring.py::test_a_consent_is_answered_once_also_after_a_restart",
        "attacks/test_scoring.py::test_a_consent_is_answered_once_also_after_a_restart",
    ],
    "a consent for another purpose, model or merchant": [
        "protocol/linkage/test_consent.py::test_each_way_to_fail_has_its_error",
        "node/test_scoring.py::test_what_a_consent_must_be",
        "scenarios/test_scoring.py::test_a_consent_allows_what_it_says_and_nothing_else",
    ],
    "many models on one applicant": [
        "scenarios/test_scoring.py::test_model_hopping_on_one_firm_ends_at_the_quota_known_or_not",
        "node/test_scoring.py::test_the_quota_counts_subjects_over_models_and_in_one_batch",
        "attacks/test_scoring.py::test_one_subject_under_many_models_is_read_bit_by_bit_until_the_quota_ends",
    ],
    "feature edges that isolate one subject": [
        "scenarios/test_scoring.py::test_a_model_with_a_bin_of_few_firms_is_refused_and_the_reason_told",
        "attacks/test_scoring.py::test_edges_around_one_subject_are_refused",
        "protocol/linkage/test_scoring.py::test_no_bin_may_isolate",
    ],
    "a holder that drops out of a linkage: nothing half-linked is kept": [
        "scenarios/test_joint_space.py::test_a_holder_that_dies_in_the_middle_has_lost_the_linkage",
        "scenarios/test_joint_space.py::test_a_holder_that_dies_before_it_has_sent_anything_goes_on",
        "scenarios/test_joint_space.py::test_a_job_that_is_cancelled_in_the_middle_leaves_nothing",
        "scenarios/test_joint_space.py::test_a_job_whose_time_is_over_in_the_middle_leaves_nothing",
        "coordinator/test_erasing.py::test_no_byte_of_a_forgotten_payload_is_left_in_a_file",
        "node/test_linking_modes.py::test_of_a_job_that_expires_half_way_nothing_is_kept",
        "node/test_linking_modes.py::test_a_node_that_was_restarted_has_lost_its_key",
        "node/test_linking_modes.py::test_a_node_that_nobody_tells_of_the_end_forgets_by_itself",
    ],
    "group elements that are the identity or not canonical": [
        "protocol/linkage/test_oprf.py::test_what_is_no_point_is_refused_wherever_it_stands",
        "protocol/linkage/test_private_join.py::test_what_is_no_point_or_the_identity_is_refused",
        "protocol/linkage/test_private_join.py::test_another_encoding_of_a_point_is_refused",
        "node/test_linking_modes.py::test_a_holder_that_cheats_ends_the_job_and_is_named",
    ],
    "unshuffled tokens": [
        "attacks/test_linkage.py::test_tokens_in_the_order_of_the_rows_name_the_members",
        "attacks/test_private_join.py::test_unshuffled_replies_say_who_is_in_common",
        "protocol/linkage/test_oprf.py::test_the_coordinator_refuses_submissions",
        "node/test_linking_modes.py::test_a_holder_that_cheats_ends_the_job_and_is_named",
    ],
    "reused tokens": [
        "node/test_linking_modes.py::test_tokens_are_others_in_every_job_and_in_no_log",
        "protocol/linkage/test_token_steps.py::test_tokens_of_another_job_match_nobody",
        "protocol/linkage/test_oprf.py::test_each_batch_is_evaluated_once_and_none_beyond_what_was_announced",
    ],
    "a coordinator that changes, swaps or replays messages, or shows other approvals": [
        "attacks/test_joint_coordinator.py::test_a_changed_payload_is_refused",
        "attacks/test_joint_coordinator.py::test_swapped_messages_are_refused_by_each_of_three_checks",
        "attacks/test_joint_coordinator.py::test_a_replayed_message_is_refused_by_each_of_three_checks",
        "attacks/test_joint_coordinator.py::test_different_approvals_are_refused",
        "attacks/test_joint_coordinator.py::test_nobody_goes_on_without_a_holder",
    ],
    "a joint question that a house does not allow": [
        "node/test_linking_policy.py::test_what_a_houses_policy_forbids_is_refused_by_name",
        "node/test_linking_policy.py::test_a_stop_ends_what_is_asked_and_what_is_under_way",
        "node/test_linking_policy.py::test_a_suspended_agreement_ends_what_is_asked_and_what_is_under_way",
        "node/test_linking_policy.py::test_a_number_is_one_job",
        "node/test_linking_policy.py::test_a_replayed_manifest_is_answered_as_before_and_no_step_is_taken_again",
    ],
    "no error text has a row's value or DuckDB's words": [
        "node/test_publishing.py::test_no_value_is_in_any_error_or_report",
        "node/test_engine.py::test_a_damaged_file_is_named_without_duckdbs_words",
        "node/test_answering.py::test_engine_failure_is_refused_without_a_value",
        "attacks/test_leaks.py::test_logs_and_ledgers_of_holders_have_no_value",
    ],
}

ATTACKS = {
    # Each is shown first to succeed in a weakened build.
    "a dictionary against everything that the coordinator stored": [
        "attacks/test_linkage.py::test_hashes_of_identifiers_fall_to_a_dictionary",
        "attacks/test_linkage.py::test_the_coordinator_finds_nobody_among_a_million",
        "attacks/test_joint_leaks.py::test_a_dictionary_of_all_firms_finds_nobody",
        "attacks/test_joint_leaks.py::test_a_dictionary_of_a_million_finds_nobody",
        "attacks/test_joint_leaks.py::test_coordinator_received_and_stored_no_firm_and_no_figure",
    ],
    "short exponents against the owner of the key": [
        "attacks/test_private_join.py::test_short_exponents_tell_the_owner_of_the_key_which_row_matched",
        "attacks/test_private_join.py::test_full_exponents_tell_the_owner_of_the_key_nothing",
        "attacks/test_scoring.py::test_short_exponents_tell_the_keys_owner_which_bins_were_chosen",
    ],
    "hostile weights that try to read every feature": [
        "attacks/test_scoring.py::test_hostile_weights_read_only_the_bits_of_the_score"
    ],
    "a malformed modulus in scoring and in joins": [
        "attacks/test_scoring.py::test_without_the_proof_a_malformed_modulus_reads_every_bin",
        "protocol/linkage/test_scoring.py::test_the_key_proof_is_verified_before_a_model_is_used",
        "attacks/test_private_join.py::test_under_an_unproven_modulus_the_owner_reads_who_matched",
        "attacks/test_private_join.py::test_no_side_can_be_made_under_an_unproven_modulus",
    ],
    "groups of one row": [
        "attacks/test_private_join.py::test_a_group_of_one_is_read_where_exact_answers_are_given",
        "attacks/test_private_join.py::test_a_group_of_one_gets_no_exact_answer_without_the_flag",
        "attacks/test_private_join.py::test_a_group_of_one_drowns_in_noise",
        "scenarios/test_joint_space.py::test_nothing_exact_without_the_word_of_every_holder",
    ],
    "the same token in two jobs": [
        "attacks/test_linkage.py::test_a_kept_key_links_the_tokens_of_two_jobs_and_a_fresh_one_does_not",
        "node/test_linking_modes.py::test_tokens_are_others_in_every_job_and_in_no_log",
    ],
    "a lying coordinator in joint jobs": [
        "attacks/test_joint_coordinator.py::test_made_up_tests_release_a_small_group_in_a_build_that_checks_no_message",
        "attacks/test_joint_coordinator.py::test_swapped_decisions_release_a_small_groups_masks_in_a_weakened_build",
        "attacks/test_joint_coordinator.py::test_a_replayed_message_releases_a_small_group_in_a_weakened_build",
        "attacks/test_joint_coordinator.py::test_different_approvals_pass_in_a_build_whose_messages_are_bound_to_none",
        "attacks/test_joint_coordinator.py::test_the_others_go_on_without_a_holder_in_a_build_that_does_not_count_them",
    ],
}
"""Attacks on linkage, joins and scores."""


@cache
def functions_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("what", [*SHOWN_BY, *ATTACKS])
def test_is_shown_by_tests_that_exist(what: str) -> None:
    for place in (SHOWN_BY | ATTACKS)[what]:
        file, _, name = place.partition("::")
        assert name in functions_in(file), place
