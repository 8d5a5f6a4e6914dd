import subprocess
import sys
import textwrap

DEAR = ("torch._dynamo", "sympy", "triton", "torchvision", "sklearn", "scipy", "pandas", "matplotlib")


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


def test_a_training_imports_nothing_dear_beside_pytorch():
    program = textwrap.dedent(f"""
        import sys
        from tests.support import tiny_trainer
        trainer, reports = tiny_trainer(), []
        trainer.run(reports.append)
        trainer.load_state_dict(trainer.state_dict())
        print(reports[-1].picture is not None, [name for name in {DEAR} if name in sys.modules])
    """)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["True", "[]"], (result.stdout, result.stderr)
