"""Hypergradients against black-box search: the entry for `ray job submit`.

`ray job submit --working-dir . -- python jobs/compare.py --tasks digits --seeds 5`
takes the flags of `raymeta compare`; run by hand it starts an embedded Ray.
"""

import sys

from raymeta.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["compare", *sys.argv[1:]]))
