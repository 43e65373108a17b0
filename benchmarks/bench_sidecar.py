"""`make bench-sidecar`: the sidecar beside the library, and what its injection adds to a pod's admission."""

from pathlib import Path

import injection
import sidecar
from measure import run_topics

TOPICS = {"sidecar": sidecar.bench, "injection": injection.bench}

if __name__ == "__main__":
    run_topics(__doc__, TOPICS, Path(__file__).with_name("results-sidecar.json"))
