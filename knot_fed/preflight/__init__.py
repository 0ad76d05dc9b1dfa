"""Checks of a run before it starts."""

from knot_fed.preflight.own import check_own_functions
from knot_fed.preflight.run import check_deployed_run, check_run, check_run_folder

__all__ = ["check_deployed_run", "check_own_functions", "check_run", "check_run_folder"]
