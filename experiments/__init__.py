"""Commands that measure: `python -m experiments.NAME`. Nobody imports them; results: README.md."""
