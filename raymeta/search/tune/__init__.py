"""Ray Tune's searchers and schedulers, as a comparison drives them."""
