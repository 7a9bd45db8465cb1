"""`python -m edad_fast.export`."""

from . import main

raise SystemExit(main())
