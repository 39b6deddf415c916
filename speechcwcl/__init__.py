"""speechcwcl: align a speech encoder to a frozen text encoder (CWCL, arXiv 2309.14580)."""

__version__ = "0.1.0"
