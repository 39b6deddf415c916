"""A trained model in the forms of others: ONNX, the pipelines of transformers, the hub."""
