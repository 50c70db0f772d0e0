"""The lower bounds of pyproject.toml as pip's constraints, so that an environment can be built from exactly them.

    python tests/oldest.py > constraints.txt && pip install -c constraints.txt -e ".[test,eval,notebooks]"

`make test-oldest` does this, and runs the unit tests there.
"""

import re
import sys
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
REQUIREMENT = re.compile(r'"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)"')


def constraints(text: str) -> list[str]:
    """name==bound for every requirement `name>=bound`, once each.  text: of pyproject.toml.

    Raises ValueError if a package has two bounds. Read without tomllib, which Python 3.10 lacks.
    """
    bounds: dict[str, str] = {}
    for name, bound in REQUIREMENT.findall(text):
        if bounds.setdefault(name, bound) != bound:
            raise ValueError(f"{name} must have one lower bound in pyproject.toml, got {bounds[name]} and {bound}")
    return [f"{name}=={bound}" for name, bound in bounds.items()]


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints(PYPROJECT.read_text("utf-8"))) + "\n")
