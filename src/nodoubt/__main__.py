"""`python -m nodoubt` is the command `nodoubt`."""

from nodoubt.cli import main

raise SystemExit(main())
