"""Spotting keywords, any that can be written in words, in a stream of any length."""
