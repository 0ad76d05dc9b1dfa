"""What can be refused before anything starts: files that are not there, and names that nothing bears."""

import math

from knot_fed.config import RunConfig
from knot_fed.data.files import data_path
from knot_fed.data.partition import client_shard
from knot_fed.errors import ConfigError
from knot_fed.losses import BUILDERS, make_loss
from knot_fed.models import check_model_name
from knot_fed.privacy.secure_sum import check_threshold, default_threshold


def check_run(config: RunConfig, *, clients: int) -> None:
    """Refuse a run of virtual clients that could only fail.

    Data sets of the hub and a user's own functions are left to the run: they may be reached from there only.

    Parameters
    ----------
    config
        The run's configuration, with absolute paths.
    clients
        Number of virtual clients.

    Raises
    ------
    ConfigError
        If there are fewer clients than private files, than the run waits for or needs answers of, or than the
        threshold of a secure sum.
    DataError
        If a private file, the public file or the transfer set is not there.
    LabelSpaceError
        If the task has no labels.
    ModelError
        If there is no model of a name.
    GroundCostError
        If the ground cost is none, or the solver does not apply to it.
    """
    data, models = config.data, config.teacher.models.split(",")
    client_shard(0, clients, data.client_names)
    for key, needed in (("wait-for", config.wait_for), ("min-teachers", config.min_teachers)):
        if needed > clients:
            raise ConfigError(f"run configuration: {key} = {needed}, but there are {clients} clients; lower {key}")
    for name in (*data.client_names, data.public, data.transfer):
        data_path(data.root, name)
    for model in {config.model, config.student_model, *(name.strip() for name in models if name.strip())}:
        check_model_name(model)
    config.label_space()
    if config.privacy.secure_sum:
        asked = max(config.min_teachers, math.ceil(config.fraction * clients))
        check_threshold(config.privacy.threshold or default_threshold(asked), clients=asked)
    if config.distill.loss in BUILDERS:
        make_loss(config)
