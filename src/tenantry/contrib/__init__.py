"""Other packages that the binding follows into; each needs an extra of its own."""
