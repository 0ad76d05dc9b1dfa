"""`python -m knot_fed` is `knot-fed`."""

from knot_fed.cli.main import app

if __name__ == "__main__":
    app(prog_name="knot-fed")
