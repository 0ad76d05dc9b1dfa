"""Commands that study many runs or attack one."""
