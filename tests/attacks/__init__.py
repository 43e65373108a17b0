"""Attacks on the sidecar: generated requests, broken bodies, and clients that mean no good."""
