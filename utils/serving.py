"""Several people, one model: who waits is answered together, and nobody asks too often."""
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

GATHER = 0.1         # seconds that the first one waits for company
PAUSE = 0.1          # seconds between two looks at an answer: showing it costs more than a token


class Request:
    """Rows that somebody asks, and what the worker has answered so far."""

    def __init__(self, rows: list):
        self.rows, self.answers = rows, None
        self.error: BaseException | None = None
        self.done = self.left = False                  # left: nobody waits for it any more
        self.changed = threading.Event()


class SharedBatches:
    """One worker thread, which alone calls `stream`: rows in, for every step a list of answers out,
    one for each row. All requests that wait go into the next call, up to `at_most` rows."""

    def __init__(self, stream: Callable[[list], Iterator[list]], at_most: int):
        self.stream, self.at_most = stream, at_most
        self.waiting: queue.Queue[Request] = queue.Queue()
        self.next: Request | None = None               # did not fit into the last batch
        threading.Thread(target=self.work, daemon=True).start()

    def ask(self, rows: list) -> Iterator[list]:
        """The rows' answers, every time there is more of them; the last is complete. An error of
        `stream` is raised here. Who stops reading does not stop the others."""
        request, done = Request(rows), False
        self.waiting.put(request)
        try:
            while not done:
                request.changed.wait()
                request.changed.clear()
                done = request.done                    # looked at first: the answers are older
                if request.error:
                    raise request.error
                if request.answers is not None:
                    yield request.answers
                    if not done:
                        time.sleep(PAUSE)
        finally:
            request.left = True

    def work(self) -> None:
        while True:
            batch = self.next_batch()
            if not self.answered(batch):               # whose fault is it?
                for request in batch:
                    self.answered([request])

    def answered(self, batch: list[Request]) -> bool:
        """Whether all is done; False where a batch of several has failed."""
        error = None
        try:
            for answers in self.stream([row for request in batch for row in request.rows]):
                for request in batch:
                    n = len(request.rows)
                    request.answers, answers = answers[:n], answers[n:]
                    request.changed.set()
                if all(request.left for request in batch):
                    break
        except BaseException as found:                 # also a panic of tokenizers: nobody is left
            if len(batch) > 1:                         # waiting, and the worker goes on
                return False
            error = found
        for request in batch:
            request.error, request.done = error, True
            request.changed.set()
        return True

    def next_batch(self) -> list[Request]:
        """All that wait and fit together; sleeps until somebody asks."""
        batch, self.next = [self.next or self.waiting.get()], None
        time.sleep(GATHER)
        n = len(batch[0].rows)
        while not self.next and not self.waiting.empty():
            request = self.waiting.get()
            n += len(request.rows)
            if n > self.at_most:
                self.next = request
            elif not request.left:
                batch.append(request)
        return batch


class RateLimit:
    """At most `n` requests of each visitor in every window of so many seconds."""

    def __init__(self, n: int, seconds: float = 60):
        self.n, self.seconds, self.since = n, seconds, time.monotonic()
        self.seen: Counter[str] = Counter()

    def allows(self, visitor: str) -> bool:
        if time.monotonic() - self.since > self.seconds:
            self.since, self.seen = time.monotonic(), Counter()
        self.seen[visitor] += 1
        return self.seen[visitor] <= self.n
