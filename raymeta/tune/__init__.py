"""Ray Tune for raymeta's tasks: what a `tune.Tuner` of one's own takes."""

from raymeta.runtime import ray_session

with ray_session.prepared():  # Tune, Optuna and scikit-learn are imported
    from raymeta.tune.meta_trial import meta_trainable
    from raymeta.tune.tuner import config, space, trainable, tuner

__all__ = ["config", "meta_trainable", "space", "trainable", "tuner"]
