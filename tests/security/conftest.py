"""The same imports as for the tests of the pipelines: Ray and MLflow warn while they are imported, which is not ours to mend."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import ray.train.torch  # noqa: F401
