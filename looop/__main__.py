"""`python3 -m looop` is `looopctl`."""

from looop.ctl import main

raise SystemExit(main())
