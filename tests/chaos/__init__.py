"""The operator killed at each of its own await points, and its servers at fault: `python -m tests.chaos`."""
