"""Speech by text and text by speech: an index of a folder's recordings, kept on the disk."""
