"""Where and when training runs: the command line, Ray and MLflow around gan_core."""
