"""A database of another vendor, beside those of tenantry."""
