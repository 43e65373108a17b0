"""An agent that says one thing and ends."""

import os

from sidecar_client import Session

name = os.environ["POD_NAME"]
print(Session("support", "shared").append({"role": "user", "content": f"hello from {name}"}))
