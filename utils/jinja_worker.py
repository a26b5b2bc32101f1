"""Renders one chat template for utils/chat_template.py, in a process of its own.

Reads a line of JSON with the template and the special tokens, then one for each chat; writes a line
for each: {"text": …} or {"error": …}. Imports nothing of the project: it may start anywhere.
"""
import datetime
import json
import signal
import sys

import jinja2
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 1 << 29                         # bytes
ALARM = 120                              # seconds for a text, should the parent be gone
LENGTH = 1_000_000                       # characters of a text


class Generation(Extension):
    """{% generation %} … {% endgeneration %}, which marks an answer; the text stays as it is."""
    tags = {"generation"}

    def parse(self, parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def raise_exception(text: str) -> None:
    raise TemplateError(text)


def strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Jinja's own filter of this name writes < as \\u003c, for web pages."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def compiled(template: str) -> jinja2.Template:
    """With the options, filters and functions that transformers gives to chat templates."""
    if tuple(map(int, jinja2.__version__.split(".")[:3])) < (3, 1, 6):
        raise ImportError(f"jinja2 {jinja2.__version__} has holes in its sandbox; pip install -U "
                          "jinja2")
    engine = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                           extensions=[Generation, "jinja2.ext.loopcontrols"])
    engine.filters["tojson"] = tojson
    engine.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return engine.from_string(template)


def render(template: jinja2.Template, messages: list[dict], special: dict[str, str],
           add_generation_prompt: bool) -> str:
    """The chat as text. `enable_thinking` is off: Qwen3 and its kin then answer at once."""
    pieces, length = [], 0
    for piece in template.generate(messages=messages, tools=None, documents=None,
                                   add_generation_prompt=add_generation_prompt,
                                   enable_thinking=False, **special):
        pieces.append(piece)
        length += len(piece)
        if length > LENGTH:
            raise TemplateError(f"it writes more than {LENGTH:,} characters")
    text = "".join(pieces)
    text.encode()                       # half a surrogate pair is no character: an error here
    return text


def limit() -> None:
    """Bound this process, where the system can."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)           # Ctrl-C is the parent's
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):              # Windows, macOS
        pass


def main() -> None:
    limit()
    alarm = getattr(signal, "alarm", lambda seconds: None)
    template = special = None
    for line in sys.stdin:
        alarm(ALARM)
        try:
            question = json.loads(line)
            if template is None:
                template, special = compiled(question["template"]), question["special"]
                answer = {"text": ""}
            else:
                answer = {"text": render(template, question["messages"], special,
                                         question["add_generation_prompt"])}
        except Exception as error:                  # whatever goes wrong in a stranger's program
            answer = {"error": str(error) or type(error).__name__}
        alarm(0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
