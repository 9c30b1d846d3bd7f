"""What the admin shows."""
