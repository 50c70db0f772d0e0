"""python -m ddpm_lesson train | status | sample | evaluate | export | grade"""

import io
import sys

from ddpm_lesson import cli


def main() -> int:
    """`cli.main` of a process of its own: what the output's encoding lacks is escaped, as Python does for errors."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
