"""Results for people: RESULTS.md, report.html, the model card."""
