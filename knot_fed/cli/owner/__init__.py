"""Commands for data owners and operators."""
