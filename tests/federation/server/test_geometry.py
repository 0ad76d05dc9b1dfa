"""Whole runs with costs and a geometry that are read from label names, or learnt from the answers."""

import numpy as np
import pytest
from flwr.app import Message

from knot_fed import load_student
from knot_fed.federation.from_answers import distil_from_answers
from knot_fed.federation.server.run import read_server_data
from knot_fed.federation.wire import envelope, student_wire
from knot_fed.geometry import confusion_vectors, evaluation_labels, read_matrix, unit_distances
from knot_fed.losses import make_loss
from knot_fed.models import trained_state
from knot_fed.runs.tables import summary_lines
from knot_fed.training.teacher import predict_soft_labels
from tests.fakes import InProcessGrid, virtual_clients
from tests.federation.server.test_federated_run import run
from tests.models.tiny_models import write_bert

NAMES = "very negative, negative, neutral, positive, very positive"


@pytest.fixture
def named(small, tmp_path):
    encoder = write_bert(tmp_path / "tiny-encoder")
    keys = {"task": "stars", "labels.names": NAMES, "transport.encoder": encoder}
    return lambda **more: small(keys | {key.replace("_", "."): value for key, value in more.items()})


def by_hand(rows, labels, cost, units):
    sd = np.linalg.norm(rows @ units - units[labels], axis=1)
    w1 = (rows * cost[labels]).sum(axis=1)
    return [np.mean([values[labels == label].mean() for label in np.unique(labels)]) for values in (sd, w1)]


def test_a_run_on_embedded_names_measures_everyone_in_their_geometry(named):
    config = named(transport_cost="embedding")
    folder, _ = run(config, "embedded")
    summary, space = folder.read_summary(), evaluation_labels(config)
    assert summary["geometry"] == "embedding of the label names by tiny-encoder"
    np.testing.assert_allclose(summary["coordinates"], space.coordinates)
    assert space.diameter == pytest.approx(1)
    test = read_server_data(config)[1].test
    rows = predict_soft_labels(load_student(folder.path), test.texts)
    cost = make_loss(config).ground_cost.matrix.numpy()
    sd, w1 = by_hand(rows, test.labels, cost, space.coordinates)
    found = summary["domains"]["books"]["after"]
    assert [found["sd"], found["w1"]] == pytest.approx([sd, w1], abs=1e-6)
    assert set(summary["domains"]) == {"phones", "restaurants", "hotels", "books"}
    for domain in ("phones", "restaurants", "hotels"):
        after = summary["domains"][domain]["after"]
        assert 0 < after["sd"] <= after["w1"] <= 1
    told = " ".join(" ".join(summary_lines(summary)).split())
    assert "SD and W1: embedding of the label names by tiny-encoder" in told
    assert "embedding of the label names by tiny-encoder" in (folder.path / "report.html").read_text()
    assert "embedding of the label names" in (folder.path / "student" / "README.md").read_text()


@pytest.mark.parametrize("keys", [{}, {"privacy.secure-sum": True, "distill.objective": "pooled"}])
def test_a_learnt_cost_is_that_of_the_first_rounds_pooled_rows_and_stays(small, keys):
    config = small({"transport.cost": "confusion", "rounds": 2, "labels.names": NAMES, "task": "stars"} | keys)
    folder, _ = run(config, "learnt")
    recorded = read_matrix(folder.path / "ground-cost.csv")
    first = unit_distances(confusion_vectors(folder.read_pooled(1)), source="rows")
    np.testing.assert_array_equal(recorded, (first + first.T) / 2)
    second = unit_distances(confusion_vectors(folder.read_pooled(2)), source="rows")
    assert not np.allclose(recorded, second)
    assert folder.read_summary()["distillation"]["cost"] == "confusion"
    assert folder.read_summary()["geometry"] == "equal distances"


def test_a_recorded_cost_may_be_given_as_a_file_and_distils_the_same_student(small):
    config = small({"transport.cost": "cka", "labels.names": NAMES, "task": "stars"})
    folder, _ = run(config, "aligned")
    file = str(folder.path / "ground-cost.csv")
    given = small({"transport.cost": file, "labels.names": NAMES, "task": "stars", "name": "given"})
    again = distil_from_answers(folder, given, clients=3)
    assert again.read_summary()["student"] == folder.read_summary()["student"]
    assert not (again.path / "ground-cost.csv").exists()


def test_a_client_measures_in_no_other_geometry_than_its_configuration_says(named, small):
    from knot_fed import client_app
    from knot_fed.models import ModelSpec, build_classifier

    embedded = named(transport_cost="embedding")
    student = build_classifier(ModelSpec("ngram-bag", "all", embedded.label_space().names, False, 128), seed=0)
    state = envelope.pack_arrays(trained_state(student))
    with_points = student_wire.pack_student(student.spec.to_json(), state, geometry=evaluation_labels(embedded))
    without = student_wire.pack_student(student.spec.to_json(), state)
    for config, content, said in (
        (embedded, without, "labels.geometry = 'auto' needs coordinates of the labels"),
        (named(), with_points, "labels.geometry = 'auto' needs none, and coordinates were sent"),
        (embedded, with_points, None),
    ):
        nodes = virtual_clients(config, 3)
        node, grid = min(nodes), InProcessGrid(nodes, app=client_app.app)
        (reply,) = grid.send_and_receive([Message(content, dst_node_id=node, message_type="evaluate")])
        refused = envelope.refusal_of(reply.content)
        assert (refused is None) if said is None else (said in refused)


def test_runs_and_cells_of_different_geometries_are_not_compared(named, small, tmp_path):
    from knot_fed.errors import ConfigError, RunFolderError
    from knot_fed.runs.results import collect_runs
    from knot_fed.sweep.grid import make_cells, parse_grid

    folders = [run(config, name)[0] for name, config in (("a", named(transport_cost="embedding")), ("b", named()))]
    with pytest.raises(RunFolderError, match=r"a and b|b and a.*measure SD in different geometries"):
        collect_runs(folders)
    base = named()
    grid = parse_grid("transport.cost=embedding,zero-one", base)
    with pytest.raises(
        ConfigError, match=r"the geometry embedding in some cells and equal in others; set labels\.geom"
    ):
        make_cells(base, grid, [1])
    assert len(make_cells(named(labels_geometry="embedding"), grid, [1, 2])) == 4
