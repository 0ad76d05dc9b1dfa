import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from knot_fed.models import encoder_identity
from knot_fed.models.huggingface.feature_cache import FeatureCache

lists = st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6), min_size=1, max_size=5)


def features_of(texts):
    return np.array([[ord(text), ord(text) ** 2] for text in texts], dtype=np.float32)


@given(lists)
@settings(max_examples=30)
def test_no_text_is_computed_twice_in_whatever_lists_it_comes(tmp_path_factory, asked):
    folder, computed = tmp_path_factory.mktemp("kept"), []

    def compute(texts):
        computed.extend(texts)
        return features_of(texts)

    for texts in asked:
        np.testing.assert_array_equal(FeatureCache(folder).features(texts, compute), features_of(texts))
    assert len(computed) == len(set(computed)) == len({text for texts in asked for text in texts})


def test_a_broken_file_is_computed_anew(tmp_path):
    FeatureCache(tmp_path).features(["a"], features_of)
    next(tmp_path.glob("*.safetensors")).write_bytes(b"broken")
    np.testing.assert_array_equal(FeatureCache(tmp_path).features(["a"], features_of), features_of(["a"]))


def test_a_file_in_the_place_of_another_is_computed_anew(tmp_path):
    folders = {name: tmp_path / name for name in ("one", "other")}
    for folder in folders.values():
        for text in "ab":
            shift = folder.name == "other"
            FeatureCache(folder).features([text], lambda texts, shift=shift: features_of(texts) + shift)
    first, second = sorted(folders["one"].iterdir())
    for taken in (second, folders["other"] / first.name):
        first.write_bytes(taken.read_bytes())
        for text in "ab":
            kept = FeatureCache(folders["one"]).features([text], features_of)
            np.testing.assert_array_equal(kept, features_of([text]))


def test_a_models_identity_is_that_of_its_content_however_often_and_whenever_it_changes(tmp_path):
    def written(content):
        (tmp_path / "config.json").write_text(content)
        return encoder_identity(f"hf:{tmp_path}")

    first = written("{}")
    assert encoder_identity(f"hf:{tmp_path}") == first
    assert written('{"a": 1}') != first
    (tmp_path / "weights.safetensors").write_bytes(b"1")
    assert encoder_identity(f"hf:{tmp_path}") != first
    (tmp_path / "weights.safetensors").unlink()
    assert written("{}") == first
