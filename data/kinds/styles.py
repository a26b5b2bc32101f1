"""A whole word in another look: case, brackets, marks, markup, spelled out (more in letters.py)."""
from kinds import FORMS, grid
from lexicon import WORDS

CASES = {"upper": str.upper, "capitalised": str.capitalize, "lower": str}
LOOKS = FORMS | {"html": "<b>{}</b>".format, "italic": "*{}*".format, "bullet": "- {}".format,
                 "heading": "# {}".format, "braces": "{{{}}}".format, "angles": "<{}>".format,
                 "backticks": "`{}`".format, "dots": ".".join,
                 "letter_commas": ", ".join, "letter_spaces": " ".join}

grid("styles", WORDS, CASES, """
    upper: quoted round square bold exclaimed twice html
    capitalised: quoted round square bold exclaimed twice html
    lower: bold html italic bullet heading braces angles backticks sentence json
    lower: dots letter_commas letter_spaces
""", LOOKS)
