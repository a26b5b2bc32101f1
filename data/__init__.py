"""The tasks: what is asked of the language model, the built-in suite, and what is downloaded."""
