"""Published experiments, a module each: see `jobs.experiments.reproduce`."""
