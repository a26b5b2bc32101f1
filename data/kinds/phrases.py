"""A noun, a verb or an adjective put into a short phrase (more in words.py)."""
from kinds import grid
from kinds import words as w

NOUN = {name: lambda noun, text=text: [text.format(p) for p in w.plurals(noun)] for name, text in {
    "three": "three {}", "many": "many {}", "no": "no {}", "these": "these {}", "some": "some {}",
    "our_plural": "our {}", "i_see": "I see {}.", "where_are": "Where are the {}?"}.items()}
NOUN |= {name: lambda noun, text=text: w.plurals(noun) and text.format(noun)
         for name, text in {"this": "this {}", "your": "your {}", "the": "the {}",
                            "new": "a new {}"}.items()}
PAST = {name: lambda verb, text=text: [text.format(p) for p in w.pasts(verb)]
        for name, text in {"he_past": "he {}", "they_past": "they {}", "i_past": "I {}"}.items()}
BASE = {name: lambda verb, text=text: text.format(verb) for name, text in {
    "they_present": "they {}", "we_will": "we will {}", "please": "please {}", "can": "can {}",
    "must_not": "must not {}", "did_not": "did not {}"}.items()}
ING = {"i_am": lambda verb: [f"I am {x}" for x in [w.ing(verb)] if isinstance(x, str)],
       "she_is": lambda verb: [f"she is {x}" for x in [w.ing(verb)] if isinstance(x, str)],
       "she_present": lambda verb: f"she {w.third_person(verb)}"}
DEGREE = {name: lambda a, text=text: w.very(a) and text.format(a) for name, text in {
    "quite": "quite {}", "too": "too {}", "so": "so {}!", "it_is": "It is {}.",
    "not_very": "not very {}"}.items()}
DEGREE |= {"the_superlative": lambda a: [f"the {x}" for x in w.superlative(a) or []]}

for pool, parts in ((w.NOUN_POOL, NOUN), (w.VERB_POOL, PAST | BASE | ING),
                    (w.ADJECTIVE_POOL, DEGREE)):
    grid("phrases", pool, parts, "\n".join(f"{part}: plain" for part in parts))
