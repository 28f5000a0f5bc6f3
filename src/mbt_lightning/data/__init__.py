"""From media files to batches on the device."""
