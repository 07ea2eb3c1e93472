"""Data-parallel meta-training: the entry for `ray job submit`.

`ray job submit --working-dir . -- python jobs/meta_train.py --workers 8 --gpus 8
--storage /shared/results` takes the flags of `raymeta train`; run by hand it starts an
embedded Ray. The storage must be a folder that all nodes see.
"""

import sys

from raymeta.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
