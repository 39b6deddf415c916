"""Bridges to the tools of others."""
