import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_curve

from knot_fed.audit.attacks.findings import area_under_curve, membership_findings, true_positive_rate
from knot_fed.audit.attacks.membership import label_logits, leave_one_out, lira_scores
from knot_fed.audit.attacks.shadows import read_nearest, read_own, split_candidates, train_shadows
from knot_fed.types import LabelledTexts
from tests.audit.learners import blind, by_heart, made_up

seeds = st.integers(0, 2**32 - 1)


def drawn(seed, count=60):
    generator = np.random.default_rng(seed)
    members = generator.random(count) < 0.5
    members[:2] = [True, False]
    return generator.standard_normal(count).round(1) + members, members


@given(seeds, st.sampled_from([0.0, 0.001, 0.01, 0.2]))
def test_no_more_false_positives_pass_than_allowed(seed, rate):
    scores, members = drawn(seed)
    found = true_positive_rate(scores, members, false_positive_rate=rate)
    false, true, _ = roc_curve(members, scores, drop_intermediate=False)
    assert true[false <= rate].max() == pytest.approx(found.value)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(seeds)
@settings(max_examples=6)  # each draws a thousand bootstrap samples
def test_the_area_is_the_chance_of_a_right_order_and_that_under_the_curve(seed):
    scores, members = drawn(seed)
    area = area_under_curve(scores[None], members[None], generator=np.random.default_rng(0)).value
    pairs = np.sign(scores[members][:, None] - scores[~members])
    assert area == pytest.approx((pairs.mean() + 1) / 2)
    false, true, _ = roc_curve(members, scores)
    assert np.trapezoid(true, false) == pytest.approx(area)


@given(seeds)
@settings(max_examples=6)  # each draws a thousand bootstrap samples
def test_scores_that_all_tie_find_nobody_and_tell_nothing(seed):
    _, members = drawn(seed)
    ties = np.zeros(len(members))
    assert true_positive_rate(ties, members, false_positive_rate=0.5).value == 0
    assert area_under_curve(ties[None], members[None], generator=np.random.default_rng(0)).value == 0.5


def test_the_online_score_is_the_log_likelihood_ratio_of_the_normal_distributions_that_were_drawn_from():
    generator = np.random.default_rng(3)
    members = generator.random((4000, 2)) < 0.5
    shadows = generator.normal(np.where(members, [1.0, 3.0], 0.0), np.where(members, 2.0, 1.0))[:, :, None]
    observed = np.array([[0.5], [2.5]])
    expected = norm.logpdf(observed[:, 0], [1.0, 3.0], 2.0) - norm.logpdf(observed[:, 0], 0.0, 1.0)
    np.testing.assert_allclose(lira_scores(observed, shadows, members, online=True), expected, atol=0.15)


def test_the_offline_score_reads_no_shadow_that_saw_the_candidate():
    generator = np.random.default_rng(4)
    members = generator.random((16, 30)) < 0.5
    shadows, observed = generator.standard_normal((16, 30, 2)), generator.standard_normal((30, 2))
    changed = np.where(members[:, :, None], 1e6, shadows)
    plain = lira_scores(observed, shadows, members, online=False)
    np.testing.assert_array_equal(lira_scores(observed, changed, members, online=False), plain)


def test_a_candidate_without_enough_shadows_gives_no_evidence():
    members = np.array([[True, True], [False, True], [False, True], [True, True]])
    scores = lira_scores(np.ones((2, 1)), np.random.default_rng(0).random((4, 2, 1)), members, online=True)
    assert scores[1] == 0
    assert scores[0] != 0


@given(seeds)
def test_label_logits_rise_with_the_probability_of_the_label(seed):
    rows = np.random.default_rng(seed).dirichlet(np.ones(3), size=20)
    logits = label_logits(rows, np.zeros(20, dtype=np.int64))
    np.testing.assert_array_equal(np.argsort(logits, kind="stable"), np.argsort(rows[:, 0], kind="stable"))


def attacked(training, *, count=16, candidates=160):
    generator = np.random.default_rng(5)
    chosen, rest = split_candidates(made_up(400, generator), candidates, generator=generator)
    shadows = train_shadows(training, rest, chosen, count=count, generator=generator)
    found = membership_findings("owner", {"own row": read_own(shadows)}, shadows.members, generator=generator)
    return {(finding.case, finding.measure): finding.estimate for finding in found.found}


@pytest.mark.parametrize("kind", ["online", "offline"])
def test_lira_finds_the_members_of_an_overfitted_teacher_far_better_than_chance(kind):
    found = attacked(by_heart)
    assert found[f"own row, {kind}", "tpr_at_1%"].low > 0.3
    assert found[f"own row, {kind}", "tpr_at_0.1%"].value > 0.1
    assert found[f"own row, {kind}", "auc"].low > 0.9


@pytest.mark.parametrize("kind", ["online", "offline"])
def test_lira_finds_nothing_in_a_teacher_that_never_saw_the_candidates(kind):
    found = attacked(blind)
    assert found[f"own row, {kind}", "auc"].low < 0.5 < found[f"own row, {kind}", "auc"].high
    assert found[f"own row, {kind}", "tpr_at_1%"].value < 0.03


def test_rows_of_texts_near_to_the_candidates_tell_on_them_and_rows_of_other_texts_do_not():
    generator = np.random.default_rng(6)
    chosen, rest = split_candidates(made_up(200, generator), 100, generator=generator)
    near = [f"{text} {text.split()[0]} and" for text in chosen.texts]
    far = [f"v{number} u{number} and" for number in range(100)]
    shadows = train_shadows(by_heart, rest, chosen, count=12, generator=generator)
    areas = {}
    for name, texts in (("near", near), ("far", far)):
        scores = leave_one_out(read_nearest(shadows, texts, count=2), shadows.members, online=True)
        areas[name] = area_under_curve(scores, shadows.members, generator=generator)
    assert areas["near"].low > 0.8
    assert areas["far"].value < 0.65


def test_shadows_see_what_is_always_in_and_a_candidate_by_its_coin():
    seen = []

    def remembering(train, seed):
        seen.append((train.texts, seed))
        return by_heart(train, seed)

    generator = np.random.default_rng(7)
    train = made_up(60, generator)
    chosen, rest = split_candidates(train, 1000, generator=generator)
    assert len(chosen) == len(rest) == 30
    shadows = train_shadows(remembering, rest, chosen, count=4, generator=generator)
    assert sorted(chosen.texts + rest.texts) == sorted(train.texts)
    for (texts, _), included in zip(seen, shadows.members, strict=True):
        assert texts == (*rest.texts, *chosen.select(np.flatnonzero(included)).texts)
    assert len({seed for _, seed in seen}) == 4
    assert isinstance(shadows.candidates, LabelledTexts)
