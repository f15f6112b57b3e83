"""`python -m minordpo`, as torchrun wants it."""

import sys

from minordpo.cli import main

sys.exit(main())
