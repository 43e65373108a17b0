"""The operator: it turns resources of `holdfast.dev` into keys, policies, users and Secrets."""
