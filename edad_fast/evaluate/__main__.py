"""`python -m edad_fast.evaluate`."""

from . import main

raise SystemExit(main())
