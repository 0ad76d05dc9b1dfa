"""Checks of a run before it starts."""

from knot_fed.preflight.plugins import check_plugins
from knot_fed.preflight.run import check_deployed_run, check_run, check_run_folder

__all__ = ["check_deployed_run", "check_plugins", "check_run", "check_run_folder"]
