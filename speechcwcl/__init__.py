"""speechcwcl: align a speech encoder to a frozen text encoder (CWCL, arXiv 2309.14580)."""

__version__ = "0.1.0"


def register() -> None:
    """Let transformers' pipelines and Auto classes open our model folders."""
    from speechcwcl.export.pipeline import register as register_classes

    register_classes()
