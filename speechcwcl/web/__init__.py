"""The page of ``speechcwcl demo``: what is asked, what is answered, how it looks, how it is served.

Only :mod:`speechcwcl.web.page` and :mod:`speechcwcl.web.serve` know gradio.
"""
