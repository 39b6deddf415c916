"""The page of `speechcwcl demo`: what is asked, what is answered, how it looks, how it is served.

Only `speechcwcl.apps.demo.page` and `speechcwcl.apps.demo.serve` know gradio.
"""
