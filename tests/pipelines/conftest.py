"""Ray and MLflow warn while they are imported, which is not ours to mend: import them once, here, before warnings are errors."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import ray.train.torch  # noqa: F401
