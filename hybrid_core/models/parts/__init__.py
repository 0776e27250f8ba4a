"""What the families are built of: norms, attention, caches, experts, encoders."""
