import subprocess
import sys
import textwrap


def test_the_core_trains_where_ray_and_mlflow_cannot_be_imported():
    program = textwrap.dedent("""
        import sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("ray", "mlflow", "pipelines", "tune_spaces"):
                    raise ImportError(f"{name} is blocked")
        sys.meta_path.insert(0, Blocked())
        from tests.support import tiny_trainer
        reports = []
        tiny_trainer().run(reports.append)
        print(reports[-1].images_seen, reports[-1].done)
    """)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["160", "True"], result.stderr
