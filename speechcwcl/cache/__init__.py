"""What is computed once and kept on the disk: frozen features, text embeddings."""
