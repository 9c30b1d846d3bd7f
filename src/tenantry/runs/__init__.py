"""Management commands as one tenant, and as all of them in turn."""
