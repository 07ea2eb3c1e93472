"""Runtime: Ray, clusters, Ctrl-C and progress, as jobs need them."""
