"""The attacks on one run: each trains what it needs, looks at what leaves, and says what it found."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from knot_fed.aggregation import pool_soft_labels
from knot_fed.audit.epsilon_bound import audit_guesses
from knot_fed.audit.findings import Effort, Finding, Findings, exact, membership_findings
from knot_fed.audit.label_mix import inferred_mixes, mix_errors, trilaterated_bias, true_mix
from knot_fed.audit.membership import label_logits, lira_scores
from knot_fed.audit.poisoning import POISONS, poisoned
from knot_fed.audit.subject import Answer, Federation, Subject, Teacher, stacked
from knot_fed.confidence import nearest_by_words, prediction_confidence
from knot_fed.losses.catalogue import configured_ground_cost
from knot_fed.teacher import predict_soft_labels
from knot_fed.types import LabelledTexts, SplitExamples, Text

HONEST = "honest"
POOLINGS = ("mean", "median", "trimmed-mean")
Attack = Callable[[Federation, Subject, Effort, np.random.Generator], Findings]


def attack_membership(
    federation: Federation, subject: Subject, effort: Effort, generator: np.random.Generator
) -> Findings:
    """Guess from released soft labels which texts a teacher was trained on.

    Cases: `own row`, the candidate itself was in the transfer set; `nearest rows`, only other texts were. The attacker
    knows label, mechanism and all other private examples: no weaker one does better.
    """
    candidates, members, teachers = _shadow_teachers(subject, effort, generator)
    own = [label_logits(teacher.soft_labels(candidates.texts), candidates.labels)[:, None] for teacher in teachers]
    near = _read_nearest(federation.transfer.texts, candidates, teachers, count=effort.nearest)
    observations = {"own row": np.stack(own), "nearest rows": near}
    return membership_findings(subject.client.name, observations, members, generator=generator)


def attack_student(
    federation: Federation, subject: Subject, effort: Effort, generator: np.random.Generator
) -> Findings:
    """Guess from the released student which texts one of its teachers was trained on (Jagielski et al. 2023).

    Cases: `student, texts planted`, the candidates were in the transfer set; `student`, they were not. The other
    teachers are the run's own.
    """
    candidates, members, teachers = _shadow_teachers(subject, effort, generator)
    transfer = federation.transfer.texts
    observations = {
        case: _read_students(federation, subject, texts, candidates, teachers)
        for case, texts in {"student": transfer, "student, texts planted": (*transfer, *candidates.texts)}.items()
    }
    return membership_findings(subject.client.name, observations, members, generator=generator)


def attack_canaries(
    federation: Federation, subject: Subject, effort: Effort, generator: np.random.Generator
) -> Findings:
    """Bound epsilon from below by one training with canaries: texts of the test split with the most distant label.

    The canaries' own texts are asked. Each is in by a fair coin; so it is, by other coins, in the references, by which
    guesses are made (`lira_scores`, online).
    """
    test = subject.examples.test
    texts = test.select(generator.permutation(len(test))[: effort.canaries])
    distant = configured_ground_cost(federation.config).matrix.numpy().argmax(axis=1)
    canaries = LabelledTexts(texts.texts, distant[texts.labels])
    coins = generator.random((1 + effort.references, len(canaries))) < 0.5
    logits = []
    for included in coins:
        teacher = _trained(subject, subject.examples.train, canaries, included, generator)
        logits.append(label_logits(teacher.soft_labels(canaries.texts), canaries.labels)[:, None])
    scores = lira_scores(logits[0], np.stack(logits[1:]), coins[1:], online=True)
    bound = audit_guesses(scores, coins[0], delta=effort.delta)
    name = subject.client.name
    found = (
        Finding(name, "canaries", "epsilon_lower_bound", exact(bound.epsilon), bound.canaries),
        Finding(name, "canaries", "right_guesses", exact(bound.right / max(1, bound.guesses)), bound.guesses),
    )
    return Findings(found, {"canaries": (scores[None], coins[:1])})


def infer_label_mix(federation: Federation, *_: object) -> Findings:
    """Infer each client's label mix from its soft labels, from confidences, from its bias, and from the pooled rows."""
    texts, classes = federation.transfer.texts, len(federation.config.label_space())
    public_mix = true_mix(federation.public.train.labels, classes)
    public_answers = predict_soft_labels(federation.start(), texts)
    teachers = [subject.run_teacher() for subject in federation.subjects]
    answers = [subject.answer(teacher, texts) for subject, teacher in zip(federation.subjects, teachers, strict=True)]
    pooled = pool_soft_labels(stacked(answers), federation.weights(answers))
    found = []
    for subject, teacher, answer in zip(federation.subjects, teachers, answers, strict=True):
        known = {"public_answers": public_answers, "public_mix": public_mix}
        bias = teacher.bias(seed=subject.client.seed())
        told = prediction_confidence(answer.soft_labels, bias)
        mixes = {f"soft labels: {how}": mix for how, mix in inferred_mixes(answer.soft_labels, **known).items()}
        mixes |= {f"pooled: {how}": mix for how, mix in inferred_mixes(pooled, **known).items()}
        mixes |= {"soft labels and confidences": trilaterated_bias(answer.soft_labels, told), "prediction bias": bias}
        truth = true_mix(subject.examples.train.labels, classes)
        found += [
            Finding(subject.client.name, case, measure, exact(value), len(texts))
            for case, mix in mixes.items()
            for measure, value in mix_errors(truth, mix).items()
        ]
    return Findings(tuple(found))


def attack_by_poison(federation: Federation, subject: Subject, _: Effort, generator: np.random.Generator) -> Findings:
    """Measure the student when this client sends poisoned soft labels, under each pooling (pooled objective)."""
    texts = federation.transfer.texts
    honest = [other.answer(other.run_teacher(), texts) for other in federation.subjects]
    public = federation.public_answer(texts)
    place, beside = list(federation.subjects).index(subject), [public] if public else []
    cost = configured_ground_cost(federation.config).matrix.numpy()
    found = []
    for kind in (HONEST, *POISONS):
        sent = list(honest)
        if kind != HONEST:
            rows = poisoned(honest[place].soft_labels, kind, ground_cost=cost, generator=generator)
            sent[place] = Answer(rows, honest[place].confidences, honest[place].examples)
        for pooling in POOLINGS:
            pooling_by = federation.changed({"weights.pooling": pooling, "distill.objective": "pooled"})
            metrics = pooling_by.judge(pooling_by.distil(texts, [*sent, *beside]))
            found += [
                Finding(subject.client.name, f"{kind}, {pooling}", measure, exact(value), metrics.examples)
                for measure, value in (("sd", metrics.sd), ("macro_f1", metrics.macro_f1))
            ]
    return Findings(tuple(found))


ATTACKS: Mapping[str, Attack] = {
    "membership": attack_membership,
    "student": attack_student,
    "label-mix": infer_label_mix,
    "canaries": attack_canaries,
    "poisoning": attack_by_poison,
}


def _shadow_teachers(
    subject: Subject, effort: Effort, generator: np.random.Generator
) -> tuple[LabelledTexts, Bool[np.ndarray, "models candidates"], list[Teacher]]:
    """Train teachers that each saw every candidate by a fair coin, and all other examples."""
    train = subject.examples.train
    order = generator.permutation(len(train))
    count = min(effort.candidates, len(train) // 2)
    candidates, rest = train.select(order[:count]), train.select(order[count:])
    members = generator.random((effort.shadows, count)) < 0.5
    return candidates, members, [_trained(subject, rest, candidates, included, generator) for included in members]


def _read_nearest(
    transfer: Sequence[Text], candidates: LabelledTexts, teachers: Sequence[Teacher], *, count: int
) -> Float[np.ndarray, "models candidates nearest"]:
    """Read each candidate's label off the soft labels of the transfer texts nearest to it."""
    _, rows = nearest_by_words(candidates.texts, transfer, count=count)
    asked = np.unique(rows)
    labels = np.repeat(candidates.labels, rows.shape[1])
    logits = []
    for teacher in teachers:
        answers = teacher.soft_labels([transfer[row] for row in asked])[np.searchsorted(asked, rows.ravel())]
        logits.append(label_logits(answers, labels).reshape(rows.shape))
    return np.stack(logits)


def _read_students(
    federation: Federation,
    subject: Subject,
    texts: Sequence[Text],
    candidates: LabelledTexts,
    teachers: Sequence[Teacher],
) -> Float[np.ndarray, "models candidates 1"]:
    """Distil one student from each of the subject's teachers and the run's others, and ask it for the candidates."""
    others = [other.answer(other.run_teacher(), texts) for other in federation.subjects if other is not subject]
    public = federation.public_answer(texts)
    others += [public] if public else []
    logits = []
    for teacher in teachers:
        student = federation.distil(texts, [subject.answer(teacher, texts), *others])
        logits.append(label_logits(predict_soft_labels(student, candidates.texts), candidates.labels)[:, None])
    return np.stack(logits)


def _trained(
    subject: Subject,
    always: LabelledTexts,
    sometimes: LabelledTexts,
    included: Bool[np.ndarray, "candidates"],
    generator: np.random.Generator,
) -> Teacher:
    chosen = sometimes.select(np.flatnonzero(included))
    train = LabelledTexts((*always.texts, *chosen.texts), np.concatenate([always.labels, chosen.labels]))
    examples = SplitExamples(train, subject.examples.val, subject.examples.test)
    return subject.train(examples, seed=int(generator.integers(2**31)))
