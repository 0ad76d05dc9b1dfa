"""A federation in one Python process: three private teachers, and a student distilled from their soft labels.

python examples/federation_in_python.py [KEY=VALUE ...]
"""

import sys

from knot_fed import Federation, RunConfig
from knot_fed.config.overrides import read_override


def main(*pairs: str) -> None:
    """Run the demo, with overrides such as `seed=2 distill.loss=entropy`."""
    settings = {key: value for pair in pairs for key, value in read_override(pair).items()}
    result = Federation(RunConfig.from_mapping(settings)).run(clients=3)
    student = result.summary["student"]
    print(f"accuracy {student['before']['accuracy']:.3f} -> {student['after']['accuracy']:.3f}")
    print(result.predict(["The room was luxurious. The staff is welcoming."]).round(2))
    print(f"run folder: {result.folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
