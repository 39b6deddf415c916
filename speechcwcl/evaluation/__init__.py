"""Scoring: zero-shot protocols, retrieval, figures of merit, result files and the report."""
