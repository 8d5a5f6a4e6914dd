"""What tests of `raygan submit` have in the folder that they send, and on the command line."""

STORED = "ray.storage_path=/shared/runs"
CONFIG = "data: {name: digits}\nnetwork: {name: dcgan}\n# own"


def make(folder, *names, text="x"):
    """Files of one content below `folder`."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
