"""The table of verdicts: exactly one case for each combination, and the safety rules hold over the whole product."""

from __future__ import annotations

import itertools

from nodoubt.protocol.verdicts import VERDICTS, Action, Age, HomeSays, NodeSays, Whose, verdict

PRODUCT = list(itertools.product(HomeSays, NodeSays, Whose, Age))


def test_exactly_one_case_matches_each_combination() -> None:
    matches = {combination: [case.label for case in VERDICTS if case.matches(*combination)] for combination in PRODUCT}
    assert {combination: labels for combination, labels in matches.items() if len(labels) != 1} == {}


def test_every_case_is_reached_and_labels_are_unique() -> None:
    assert {verdict(*combination).label for combination in PRODUCT} == {case.label for case in VERDICTS}
    assert len({case.label for case in VERDICTS}) == len(VERDICTS)


def test_a_branch_is_finished_only_on_a_durable_decision_of_home() -> None:
    """Recovery rule 2: not on age, absence, silence or anything else."""
    for home, node, whose, age in PRODUCT:
        match verdict(home, node, whose, age).action:
            case Action.COMMIT:
                assert home in (HomeSays.COMMITTED, HomeSays.COMPLETE)
                assert node is NodeSays.PREPARED
            case Action.ROLL_BACK:
                assert home in (HomeSays.ABORTED, HomeSays.FRESH)
                assert node is NodeSays.PREPARED


def test_only_ripe_branches_of_ours_are_touched() -> None:
    for home, node, whose, age in PRODUCT:
        action = verdict(home, node, whose, age).action
        if whose is not Whose.OURS:
            assert action is Action.LEAVE
        elif age is Age.YOUNG:
            assert action is Action.WAIT


def test_silence_and_doubt_never_end_anything() -> None:
    for home, node, whose, age in PRODUCT:
        action = verdict(home, node, whose, age).action
        if node is NodeSays.SILENT or home in (HomeSays.SILENT, HomeSays.BUSY, HomeSays.BROKEN, HomeSays.STRANGER):
            assert action in (Action.WAIT, Action.LEAVE, Action.REPORT)
