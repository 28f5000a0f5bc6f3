"""Weights from elsewhere: read, renamed and fitted to the encoder."""
