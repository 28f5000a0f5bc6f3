"""Official annotations and a folder of media to a manifest: a file a data set, all through the same steps."""
