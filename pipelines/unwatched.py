"""Run the program in the words that follow as if the packages of Ray's dashboard were not there: Ray's agent then serves nobody, as it does
where Ray is installed without them. With them it looks for a dashboard every second, and measures every process for it.
"""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.modules["ray.dashboard.optional_deps"] = None  # type: ignore[assignment]  # whoever imports it gets an ImportError
    del sys.argv[0]
    if not sys.flags.safe_path:
        sys.path[0] = str(Path(sys.argv[0]).parent)  # as if the program had been started
    runpy.run_path(sys.argv[0], run_name="__main__")
