"""How a student was trained and how many clients answered, in words."""

from typing import Any


def weighting_in_words(weights: str) -> str:
    """Return the name of a weighting as a phrase.

    Examples
    --------
    >>> weighting_in_words("size"), weighting_in_words("unweighted median")
    ('size weights', 'unweighted median')
    """
    return weights if weights.startswith("unweighted ") else f"{weights} weights"


def settings_in_words(settings: dict[str, Any]) -> str:
    """Describe the distillation settings in one line."""
    told = ["{loss} loss, {objective} objective".format(**settings), weighting_in_words(settings["weights"])]
    if settings["cost"]:
        told.append(f"{settings['cost']} ground cost")
    if settings.get("agreement"):
        told.append("texts weighed by agreement")
    if settings.get("supervised"):
        told.append(f"cross-entropy on public examples beside it (weight {settings['supervised']:g})")
    return ", ".join(told)


def method_of(summary: dict[str, Any]) -> str:
    """Describe in one line how the student was trained."""
    if "fedavg" in summary:
        return "federated averaging, {rounds} round(s) of {epochs} epoch(s)".format(**summary["fedavg"])
    return settings_in_words(summary["distillation"])


def clients_answered(summary: dict[str, Any]) -> str:
    """Say how many of all known clients gave a valid answer in any round.

    Examples
    --------
    >>> clients_answered({"clients": [{"status": "ok", "rounds": 1}, {"status": "refused: no", "rounds": 0}]})
    '1 of 2 clients answered'
    """
    clients = summary["clients"]
    return answered_in_words(
        sum(bool(client.get("rounds", client["status"] == "ok")) for client in clients), len(clients)
    )


def answered_in_words(answered: int, clients: int) -> str:
    """Say how many clients answered; used by the log, the tables and the report."""
    return f"{answered} of {clients} clients answered"
