"""Parts of `tools/make_mini_corpus.py`: plan, voices, synthesis, packing and checking."""


class UserError(Exception):
    """A mistake that the user can mend: printed in one line, exit status 2."""
