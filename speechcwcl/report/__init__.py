"""Results for people: a table for the terminal, RESULTS.md, report.html, the model card."""
