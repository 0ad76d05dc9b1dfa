"""Trials of plug-ins in a separate process, which they may end, crash or block."""

from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache

import numpy as np

from knot_fed.aggregation import SCHEMES, TeacherAnswers, client_weights
from knot_fed.config import RunConfig
from knot_fed.errors import PluginError
from knot_fed.geometry import encoder_of, evaluation_labels, known_ground_cost
from knot_fed.losses import BUILDERS, LossKey, loss_keys, make_loss, reads_cost, try_loss
from knot_fed.models import ModelSpec, is_elsewhere, is_plugin_model, try_model
from knot_fed.preflight.models import PAIRED_TASK, named_models
from knot_fed.system.processes import worker_pool

READ = ("task", "labels", "transport", "distill", "personal", "weights", "model", "student", "teacher")
"""Parts of the configuration on which the trials depend."""
PLUGIN_SECONDS = 120.0
"""Time limit for all plug-ins on one small batch, including imports and compilation."""


def check_plugins(config: RunConfig) -> None:
    """Build loss and geometry; call plug-ins for losses and weights on a small batch, and build those for models.

    Raises
    ------
    KnotError
        If one cannot be imported, raises, ends its process, does not return in time, or returns an invalid value.
    """
    _check_geometry(config)
    if not _plugins(config):
        for key in loss_keys(config):
            _try_known_loss(config, key)
        return
    _try_apart(RunConfig(**{field: getattr(config, field) for field in READ}))


@lru_cache(maxsize=64)
def _try_apart(config: RunConfig) -> None:
    """Try plug-ins in another process, once for all cells of a sweep with the same configuration."""
    names = " and ".join(_plugins(config))
    try:
        with worker_pool(1) as pool:
            pool.submit(try_plugins, config).result(timeout=PLUGIN_SECONDS)
    except TimeoutError:
        raise PluginError(
            f"{names}: nothing was returned for a small batch in {PLUGIN_SECONDS:g} s; correct your function"
        ) from None
    except BrokenProcessPool:
        raise PluginError(
            f"{names}: your function ended its process without an error; let it raise an exception instead"
        ) from None


def try_plugins(config: RunConfig) -> None:
    """Try plug-ins as in `check_plugins`, but in this process."""
    labels = len(config.label_space())
    for key, name in loss_keys(config).items():
        if name in BUILDERS:
            _try_known_loss(config, key)
        else:
            try_loss(make_loss(config, key=key), labels=labels, name=name, key=key)
    if config.weights.scheme not in SCHEMES:
        generator = np.random.default_rng(1)
        soft_labels, scores = generator.dirichlet(np.ones(labels), size=(3, 4)), generator.uniform(size=(3, 4))
        answers = TeacherAnswers(np.array([10, 20, 30]), scores, soft_labels)
        client_weights(config.weights.scheme, answers, power=config.weights.power)

    for name in sorted(filter(is_plugin_model, named_models(config))):
        paired = config.task == PAIRED_TASK
        try_model(ModelSpec(name, "all", config.label_space().names, paired, config.teacher.max_length))


def _try_known_loss(config: RunConfig, key: LossKey) -> None:
    """Build a loss with what is known of its cost; an encoder that must be fetched first reads nothing yet."""
    reads = reads_cost(config, key=key)
    if not (reads and config.transport.cost == "embedding" and is_elsewhere(encoder_of(config))):
        make_loss(config, key=key, ground_cost=known_ground_cost(config) if reads else None)


def _check_geometry(config: RunConfig) -> None:
    if config.geometry != "embedding" or not is_elsewhere(encoder_of(config)):
        evaluation_labels(config)


def _plugins(config: RunConfig) -> list[str]:
    named: dict[str, str] = {key: name for key, name in loss_keys(config).items() if name not in BUILDERS}
    if config.weights.scheme not in SCHEMES:
        named["weights.scheme"] = config.weights.scheme
    models = sorted(filter(is_plugin_model, named_models(config)))
    return [f"{key} = {name!r}" for key, name in named.items()] + [f"model = {name!r}" for name in models]
