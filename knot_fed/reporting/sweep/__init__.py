"""The parts of a report on several runs or a sweep."""
