"""Entry points for `ray job submit`; benchmarks and experiments beside them."""
