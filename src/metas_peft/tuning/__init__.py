"""Training: one loop, objectives, and the methods that use them."""
