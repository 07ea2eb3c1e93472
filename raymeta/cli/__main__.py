"""`python -m raymeta.cli`."""

from raymeta.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
