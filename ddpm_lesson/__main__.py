"""python -m ddpm_lesson train | status | sample | evaluate | export | grade"""

import sys

from ddpm_lesson.cli import main

if __name__ == "__main__":
    sys.exit(main())
