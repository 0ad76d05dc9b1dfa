"""Commands that run many runs or attack one."""
