"""The registry of attacks on one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Float

from knot_fed.audit.attacks.epsilon_bound import audit_guesses
from knot_fed.audit.attacks.findings import Effort, Estimate, Finding, Findings, membership_findings
from knot_fed.audit.attacks.label_mix import inferred_mixes, mix_errors, trilaterated_bias, true_mix
from knot_fed.audit.attacks.shadows import (
    Answers,
    Shadows,
    canary_scores,
    read_nearest,
    read_own,
    split_candidates,
    train_shadows,
)
from knot_fed.audit.subject import OpenedRun, Subject, Teacher
from knot_fed.config.choices import POOLINGS
from knot_fed.geometry import known_ground_cost
from knot_fed.training.confidence import prediction_confidence
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import LabelledTexts, SoftLabels, Text

HONEST, NOTHING = "honest", "nothing: the public mix"
POISONS = ("random", "flipped", "most distant")
Attack = Callable[[OpenedRun, Subject, Effort, np.random.Generator], Findings]


def attack_membership(run: OpenedRun, subject: Subject, effort: Effort, generator: np.random.Generator) -> Findings:
    """Infer from released soft labels which texts a teacher was trained on.

    Cases: `own row`, the candidate was in the transfer set; `nearest rows`, only other texts were. The attacker knows
    the label, the mechanism and all other private examples, which makes it the strongest one.
    """
    shadows = _shadows(subject, effort, generator)
    near = read_nearest(shadows, run.transfer.texts, count=effort.nearest)
    observations = {"own row": read_own(shadows), "nearest rows": near}
    return membership_findings(subject.client.name, observations, shadows.members, generator=generator)


def attack_student(run: OpenedRun, subject: Subject, effort: Effort, generator: np.random.Generator) -> Findings:
    """Infer from the released student which texts one of its teachers was trained on (Jagielski et al. 2023).

    Cases: `student, texts planted`, the candidates were in the transfer set; `student`, they were not. The other
    teachers are those of the run.
    """
    shadows, transfer = _shadows(subject, effort, generator), run.transfer
    cases = {"student": transfer.texts, "student, texts planted": (*transfer.texts, *shadows.candidates.texts)}
    observations = {case: read_own(_students(run, subject, texts, shadows)) for case, texts in cases.items()}
    return membership_findings(subject.client.name, observations, shadows.members, generator=generator)


def attack_canaries(run: OpenedRun, subject: Subject, effort: Effort, generator: np.random.Generator) -> Findings:
    """Bound epsilon from below by one training with canaries: texts of the test split with the most distant label.

    The canaries themselves are asked. Each is included by a fair coin, also in the references, the shadows of
    `lira_scores`.
    """
    test = subject.examples.test
    texts = test.select(generator.permutation(len(test))[: effort.canaries])
    distant = known_ground_cost(run.config).matrix.numpy().argmax(axis=1)
    canaries = LabelledTexts(texts.texts, distant[texts.labels])
    scores, coins = canary_scores(
        train_shadows(subject.train, subject.examples.train, canaries, count=1 + effort.references, generator=generator)
    )
    bound = audit_guesses(scores, coins, delta=effort.delta)
    name = subject.client.name
    found = (
        Finding(name, "canaries", "epsilon_lower_bound", Estimate(bound.epsilon), bound.canaries),
        Finding(name, "canaries", "right_guesses", Estimate(bound.right / max(1, bound.guesses)), bound.guesses),
    )
    return Findings(found, {"canaries": (scores[None], coins[None])})


def infer_label_mix(run: OpenedRun, *_: object) -> Findings:
    """Infer each client's label mix from its soft labels, confidences and prediction bias, and from the pooled rows."""
    texts, classes = run.transfer.texts, len(run.config.label_space())
    public_mix = true_mix(run.public.train.labels, classes)
    public_answers = predict_soft_labels(run.pretrained(), texts)
    teachers = {subject.client.name: subject.run_teacher() for subject in run.subjects}
    answers = {name: teacher.answer(texts) for name, teacher in teachers.items()}
    pooled = run.consensus(answers).pooled
    found = []
    for subject in run.subjects:
        name, known = subject.client.name, {"public_answers": public_answers, "public_mix": public_mix}
        answer, bias = answers[name], teachers[name].own.bias(seed=subject.client.seed())
        confidences = prediction_confidence(answer.soft_labels, bias)
        mixes = {NOTHING: public_mix}
        mixes |= {f"soft labels: {how}": mix for how, mix in inferred_mixes(answer.soft_labels, **known).items()}
        mixes |= {f"pooled: {how}": mix for how, mix in inferred_mixes(pooled, **known).items()}
        mixes["soft labels and confidences"] = trilaterated_bias(answer.soft_labels, confidences)
        mixes["prediction bias"] = bias
        truth = true_mix(subject.examples.train.labels, classes)
        found += [
            Finding(name, case, measure, Estimate(value), len(texts))
            for case, mix in mixes.items()
            for measure, value in mix_errors(truth, mix).items()
        ]
    return Findings(tuple(found))


def attack_by_poison(run: OpenedRun, subject: Subject, _: Effort, generator: np.random.Generator) -> Findings:
    """Measure the student if this client sends poisoned soft labels, under each pooling (pooled objective)."""
    texts = run.transfer.texts
    honest = {other.client.name: other.run_teacher().answer(texts) for other in run.subjects}
    name, public = subject.client.name, run.public_answers(texts)
    cost = known_ground_cost(run.config).matrix.numpy()
    found = []
    for kind in (HONEST, *POISONS):
        sent = dict(honest)
        if kind != HONEST:
            rows = poisoned(honest[name].soft_labels, kind, ground_cost=cost, generator=generator)
            sent[name] = replace(honest[name], soft_labels=rows)
        for pooling in POOLINGS:
            pooling_by = run.changed({"weights.pooling": pooling, "distill.objective": "pooled"})
            metrics = pooling_by.judge(pooling_by.distil(texts, sent, public))
            found += [
                Finding(name, f"{kind}, {pooling}", measure, Estimate(value), metrics.examples)
                for measure, value in (("sd", metrics.sd), ("macro_f1", metrics.macro_f1))
            ]
    return Findings(tuple(found))


def poisoned(
    soft_labels: SoftLabels,
    kind: str,
    *,
    ground_cost: Float[np.ndarray, "classes classes"],
    generator: np.random.Generator,
) -> SoftLabels:
    """Return what a dishonest client sends instead of its teacher's soft labels; rows stay on the simplex.

    `random` is a uniformly drawn label for each text, one-hot; `flipped` the probabilities of the row in reverse order
    of size; `most distant` one-hot on the label at the largest ground cost from the teacher's (after CPA, arXiv
    2401.03685, which selects by the similarity of classes).

    Examples
    --------
    >>> cost = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    >>> poisoned(np.array([[0.7, 0.2, 0.1]]), "flipped", ground_cost=cost * 1.0, generator=np.random.default_rng(0))
    array([[0.1, 0.2, 0.7]])
    """
    classes = soft_labels.shape[1]
    if kind == "random":
        chosen = generator.integers(classes, size=len(soft_labels))
    elif kind == "most distant":
        chosen = ground_cost.argmax(axis=1)[soft_labels.argmax(axis=1)]
    else:
        ranks = soft_labels.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        return np.take_along_axis(np.sort(soft_labels, axis=1), classes - 1 - ranks, axis=1)
    return np.asarray(np.eye(classes, dtype=soft_labels.dtype)[chosen])


ATTACKS: Mapping[str, Attack] = {
    "membership": attack_membership,
    "student": attack_student,
    "label-mix": infer_label_mix,
    "canaries": attack_canaries,
    "poisoning": attack_by_poison,
}


def _shadows(subject: Subject, effort: Effort, generator: np.random.Generator) -> Shadows[Teacher]:
    candidates, rest = split_candidates(subject.examples.train, effort.candidates, generator=generator)
    return train_shadows(subject.train, rest, candidates, count=effort.shadows, generator=generator)


def _students(run: OpenedRun, subject: Subject, texts: Sequence[Text], shadows: Shadows[Teacher]) -> Shadows[Answers]:
    """Distil one student from each shadow teacher together with the run's other teachers."""
    others = {other.client.name: other.run_teacher().answer(texts) for other in run.subjects if other is not subject}
    name, public = subject.client.name, run.public_answers(texts)
    students: list[Answers] = [
        partial(predict_soft_labels, run.distil(texts, others | {name: teacher.answer(texts)}, public))
        for teacher in shadows.teachers
    ]
    return Shadows(shadows.candidates, shadows.members, students)
