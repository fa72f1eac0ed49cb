"""`python -m podwire`."""

import sys

from podwire.cli.main import main

sys.exit(main())
