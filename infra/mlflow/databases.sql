-- Beside MLflow's own database: who may see and do what (infra/mlflow/basic_auth.ini).
CREATE DATABASE mlflow_auth;
