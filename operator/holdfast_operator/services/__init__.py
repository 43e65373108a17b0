"""What the operator decides. No I/O of its own: everything outside comes through `ports`."""
