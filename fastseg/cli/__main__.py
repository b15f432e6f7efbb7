"""``python -m fastseg.cli``."""

import sys

from fastseg.cli.main import main

sys.exit(main())
