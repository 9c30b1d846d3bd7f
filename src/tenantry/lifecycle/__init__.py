"""The rows of one tenant as a whole: taken out, brought back, removed."""
