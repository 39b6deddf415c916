"""Uses of a trained model: search a folder, listen for words, a page in the browser."""
