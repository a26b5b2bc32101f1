"""A model folder's own chat template, run where it can do no harm.

A template is a program of strangers, written in Jinja. It runs in Jinja's sandbox, with what
transformers gives it, in a process of its own (utils/jinja_worker.py) that has a limit of memory
and time: so one that loops, fills the memory or fails ends in one line.
"""
import json
import subprocess
import sys
import threading
import weakref
from pathlib import Path

from utils.cli import UserError, one_line

START, SECONDS = 60, 10                  # for Python to start; for one text, which takes 0.1 ms


class ChatTemplate:
    """render(message) → the prompt; `where` is the template's file, for error messages.

    Raises UserError with one line where the template fails, or takes too long or too much memory.
    """

    def __init__(self, template: str, special: dict[str, str], where: str | Path):
        self.where = where
        self.worker = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("jinja_worker.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            encoding="ascii")
        weakref.finalize(self, stop, self.worker)
        self.ask({"template": template, "special": special}, START)

    def render(self, message: str, answer: str | None = None) -> str:
        """The text before the answer to one user message; or, with an answer, the whole chat."""
        messages = [{"role": "user", "content": message}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        return self.ask({"messages": messages, "add_generation_prompt": answer is None}, SECONDS)

    def ask(self, question: dict, seconds: float) -> str:
        """One line to the worker, one line back."""
        late = []
        timer = threading.Timer(seconds, lambda: (late.append(True), self.worker.kill()))
        timer.start()
        try:
            self.worker.stdin.write(json.dumps(question) + "\n")
            self.worker.stdin.flush()
            found = json.loads(self.worker.stdout.readline() or "{}")
        except (BrokenPipeError, ValueError):                          # it died
            found = {}
        except BaseException:                                          # Ctrl-C: it might run on
            self.worker.kill()
            raise
        finally:
            timer.cancel()
        if "text" in found:
            return found["text"]
        if "error" not in found:
            self.worker.kill()
            self.worker.wait()
        said = found.get("error") or (f"it ran for more than {seconds:g} seconds" if late else
                                      "it ended its process, perhaps for want of memory")
        raise UserError(f"{self.where}: the chat template fails: {one_line(said)[:200]}; it is in "
                        "chat_template.jinja or tokenizer_config.json there")


def stop(worker: subprocess.Popen) -> None:
    """Close its input, at which it ends."""
    for stream in (worker.stdin, worker.stdout):
        try:
            stream.close()
        except OSError:
            pass
    worker.kill()
    worker.wait()
