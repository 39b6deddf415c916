"""The page of ``speechcwcl demo``: what is asked, what is answered, how it looks, how it is served.

Only :mod:`speechcwcl.apps.demo.page` and :mod:`speechcwcl.apps.demo.serve` know gradio.
"""
