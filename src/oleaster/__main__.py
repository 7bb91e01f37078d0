"""`python -m oleaster` is `oleaster`."""

import sys

from oleaster.cli.main import main

sys.exit(main())
