"""The geometry of a run: from names, from a file, and the metrics in it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.config import RunConfig
from knot_fed.errors import ConfigError, GroundCostError, ModelError
from knot_fed.geometry import (
    as_words,
    configured_ground_cost,
    describe_geometry,
    evaluation_labels,
    known_ground_cost,
    learnt_ground_cost,
)
from knot_fed.losses import make_loss
from knot_fed.models import ModelSpec, build_classifier, mean_pooled_features
from knot_fed.training.evaluation import distances_to_truth, semantic_distances
from tests.models.tiny_models import write_bert

NAMES = "good phone, bad_phone, slow hotel, great book"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("encoder"))


def topics(**keys):
    return RunConfig.from_mapping({"task": "topics", "labels.names": NAMES} | keys)


def embedded(encoder, **keys):
    return topics(**{"transport.cost": "embedding", "transport.encoder": encoder} | keys)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["very_negative", "neutral"], ["very negative", "neutral"]),
        (["LABEL_joy", "LABEL_deep-sadness"], ["joy", "deep sadness"]),
        (["topic:news", "topic:sportNews"], ["news", "sport news"]),
        (["NLI", "sci.space"], ["NLI", "sci space"]),
        (["same", "same_more"], ["same", "same more"]),
        (["_", "-"], ["_", "-"]),
    ],
)
def test_names_are_read_as_words_without_a_prefix_that_all_share(names, words):
    assert as_words(names) == words


def test_the_embedding_cost_is_the_distance_of_the_names_features_at_length_one(encoder):
    cost = configured_ground_cost(embedded(encoder))
    features = mean_pooled_features(encoder, as_words([name.strip() for name in NAMES.split(",")])).astype(float)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    by_hand = np.linalg.norm(units[:, None] - units[None], axis=2)
    np.testing.assert_allclose(cost.matrix.numpy(), by_hand / by_hand.max(), atol=1e-7)
    assert cost.metric
    assert cost.diameter == 1


def test_the_runs_own_encoder_reads_the_names_if_no_other_is_given(encoder):
    own = topics(**{"transport.cost": "embedding", "model": encoder})
    assert configured_ground_cost(own).matrix.tolist() == configured_ground_cost(embedded(encoder)).matrix.tolist()


def test_a_permutation_of_the_names_permutes_the_cost(encoder):
    names, order = [name.strip() for name in NAMES.split(",")], [2, 0, 3, 1]
    moved = embedded(encoder, **{"labels.names": ",".join(names[place] for place in order)})
    cost, other = configured_ground_cost(embedded(encoder)).matrix.numpy(), configured_ground_cost(moved).matrix.numpy()
    np.testing.assert_allclose(other, cost[np.ix_(order, order)], atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1))
def test_sd_and_w1_are_those_of_the_unit_embeddings(encoder, seed):
    config, generator = embedded(encoder), np.random.default_rng(seed)
    space, cost = evaluation_labels(config), configured_ground_cost(config).matrix.numpy()
    features = mean_pooled_features(encoder, as_words([name.strip() for name in NAMES.split(",")])).astype(float)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    units /= np.linalg.norm(units[:, None] - units[None], axis=2).max()
    rows, truth = generator.dirichlet(np.ones(4), size=8), generator.integers(4, size=8)
    by_hand = np.linalg.norm(rows @ units - units[truth], axis=1)
    np.testing.assert_allclose(semantic_distances(rows, truth, space), by_hand, atol=1e-6)
    np.testing.assert_allclose(distances_to_truth(rows, truth, space), (rows * cost[truth]).sum(axis=1), atol=1e-6)


def test_the_geometry_is_that_of_coordinates_unless_there_are_none(encoder):
    assert topics().geometry == "equal"
    assert embedded(encoder).geometry == "embedding"
    assert embedded(encoder, **{"labels.geometry": "equal"}).geometry == "equal"
    assert RunConfig.from_mapping({"transport.cost": "embedding"}).geometry == "coordinates"
    assert topics(**{"transport.cost": "confusion"}).geometry == "equal"
    folder = encoder.rpartition("/")[2]
    assert describe_geometry(embedded(encoder)) == f"embedding of the label names by {folder}"
    assert not evaluation_labels(RunConfig.from_mapping({"labels.geometry": "equal"})).ordered


def test_a_matrix_is_a_geometry_with_its_own_distances_or_a_stated_error(tmp_path):
    line, ring = tmp_path / "line.csv", tmp_path / "ring.csv"
    places = np.array([0.0, 1, 4, 6])
    np.savetxt(line, np.abs(places[:, None] - places), delimiter=",")
    np.savetxt(ring, [[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]], delimiter=",")
    exact = topics(**{"labels.geometry": str(line)})
    np.testing.assert_allclose(evaluation_labels(exact).distances, np.abs(places[:, None] - places), atol=1e-6)
    assert describe_geometry(exact) == "line.csv"
    assert describe_geometry(topics(**{"labels.geometry": str(ring)})) == (
        "ring.csv, by points whose distances differ by up to 21 % of the largest"
    )


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ({"transport.cost": "embedding"}, ConfigError, "transport.cost = 'embedding' reads .* give transport.encoder"),
        ({"transport.cost": "embedding", "transport.encoder": "ngram-bag"}, ConfigError, "is no hf:<hub id"),
        ({"transport.cost": "embedding", "transport.encoder": "hf:/nowhere"}, ModelError, "no such folder"),
        ({"transport.cost": "odd"}, GroundCostError, "no ground cost 'odd'; use semantic, .*cka, or a file"),
        ({"transport.cost": "confusion"}, GroundCostError, "is learnt from the answers"),
        ({"transport.cost": "no.csv"}, GroundCostError, "no.csv: cannot be read as a matrix"),
    ],
)
def test_a_cost_that_cannot_be_is_refused_in_one_sentence(keys, error, said):
    with pytest.raises(error, match=said):
        configured_ground_cost(topics(**keys))


def test_a_geometry_that_cannot_be_is_refused_in_one_sentence():
    with pytest.raises(ConfigError, match=r"labels.geometry = 'embedding' reads the label names with an encoder"):
        evaluation_labels(topics(**{"labels.geometry": "embedding"}))
    with pytest.raises(GroundCostError, match=r"labels.geometry = 'odd'; use auto, equal, embedding, or a .npy or"):
        evaluation_labels(topics(**{"labels.geometry": "odd"}))
    with pytest.raises(
        ConfigError, match=r"transport.solver = 'line' needs .* is learnt; use transport.solver = 'auto'"
    ):
        topics(**{"transport.cost": "cka", "transport.solver": "line"})


def test_names_that_read_alike_are_refused_by_name(encoder):
    with pytest.raises(GroundCostError, match=r"labels 'good_phone' and 'good phone' read alike to .*another name"):
        configured_ground_cost(embedded(encoder, **{"labels.names": "good_phone, good phone, book"}))


def test_a_learnt_cost_needs_answers_and_has_a_stand_in_before_them():
    config = topics(**{"transport.cost": "confusion"})
    with pytest.raises(GroundCostError, match="learnt from the answers"):
        make_loss(config)
    stand_in = known_ground_cost(config)
    assert (stand_in.matrix.numpy() == 1 - np.eye(4)).all()
    assert make_loss(config, ground_cost=stand_in).ground_cost is stand_in


@pytest.mark.parametrize("named", ["confusion", "cka"])
def test_learnt_costs_come_from_pooled_rows_alone(named):
    config = topics(**{"transport.cost": named})
    student = build_classifier(ModelSpec("ngram-bag", "all", config.label_space().names, False, 64), seed=1)
    texts = tuple(f"a text about number {number}" for number in range(30))
    pooled = np.random.default_rng(1).dirichlet(np.ones(4), size=30)
    cost = learnt_ground_cost(config, pooled, student, texts)
    assert cost.metric
    assert cost.diameter == 1
    assert (cost.matrix.numpy()[~np.eye(4, dtype=bool)] > 0).all()


def test_cka_is_refused_for_a_student_without_a_known_output_layer(monkeypatch):
    config = topics(**{"transport.cost": "cka"})
    student = build_classifier(ModelSpec("ngram-bag", "all", config.label_space().names, False, 64), seed=1)
    monkeypatch.setattr(type(student), "output_layer", None)
    with pytest.raises(GroundCostError, match=r"transport.cost = 'cka' reads .* ngram-bag names none"):
        learnt_ground_cost(config, np.full((2, 4), 0.25), student, ("a", "b"))


@pytest.mark.parametrize("key", ["labels.geometry", "transport.cost"])
def test_a_matrix_of_another_size_is_told_with_its_key_and_file(tmp_path, key):
    np.savetxt(tmp_path / "g.csv", np.array([[0.0, 1.0], [1.0, 0.0]]), delimiter=",")
    config = RunConfig.from_mapping({key: str(tmp_path / "g.csv")})
    said = rf"{key} = 'g.csv': ground cost has shape \(2, 2\) for 5 labels"
    with pytest.raises(GroundCostError, match=said):
        evaluation_labels(config) if key == "labels.geometry" else configured_ground_cost(config)
