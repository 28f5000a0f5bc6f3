"""Tools beside the training: what a model costs. Training does not know them."""
