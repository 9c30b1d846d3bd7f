"""Integrations with other packages; each is optional, and the core imports none."""
