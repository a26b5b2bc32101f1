"""The page of demo.py in a real browser, and the queue behind it.

    pip install -r requirements-demo.txt selenium     # and the system's chromium, chromium-driver
    SCREENSHOT=experiments/results/demo.png python -m pytest -m slow tests/test_demo.py -s

What needs a browser is slow, and skipped where there is none.
"""
import io
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from conftest import GOLDEN, ROOT

import demo
import utils.serving
from encoder import load_encoder
from lora import load_peft, mix_loras, save_peft
from mistral import generate, load_model, load_tokenizer
from t2l import generate_lora, load_t2l
from utils.serving import RateLimit, SharedBatches

UNSEEN = [("Write the animal of the list in round brackets.", "apple, dog, chair, green, violin",
           "(dog)"),
          ("Write the year of the date in bold.", "4 October 2025", "**2025**"),
          ("Put the place in quotation marks.",
           "Martin ordered two coins in the hospital on Thursday.", '"hospital"')]
SELECT_ALL, DELETE = "\ue009a\ue000", "\ue003"                # keys, as WebDriver names them
BRACKETS, CAPITALS = UNSEEN[0][0], "Write the word in capital letters."


# ------------------------------------------------------------------------- the queue, quickly

@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(utils.serving, "PAUSE", 0)


def spelt(rows: list[str]):
    """A "model" that says every row's letters, one a step."""
    for n in range(1, 1 + max(map(len, rows))):
        time.sleep(0.001)
        yield [row[:n] for row in rows]


def fails(error: BaseException):
    """… but where a row is "bad"."""
    def stream(rows: list[str]):
        if "bad" in rows:
            raise error
        yield from spelt(rows)
    return stream


@pytest.mark.quick
def test_everybody_gets_their_own_rows_from_shared_batches(hurried):
    sizes = []

    def stream(rows):
        sizes.append(len(rows))
        yield from spelt(rows)
    batches = SharedBatches(stream, at_most=8)
    asked = [[f"{i}-{j}" for j in range(1 + i % 3)] for i in range(60)]
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda rows: list(batches.ask(rows)), asked))
    assert [answers[-1] for answers in found] == asked
    assert max(sizes) <= 8 and sum(sizes) == sum(map(len, asked)) and len(sizes) < 60
    for rows, answers in zip(asked, found):                     # they grow, and are nobody else's
        assert all(row.startswith(part) for step in answers for row, part in zip(rows, step))


@pytest.mark.quick
def test_an_error_and_a_reader_who_leaves_stop_nobody_else(hurried):
    batches = SharedBatches(fails(ValueError("no")), at_most=1)
    with pytest.raises(ValueError, match="no"):
        list(batches.ask(["bad"]))
    leaving = batches.ask(["x" * 100_000])
    next(leaving)
    leaving.close()                                             # its batch is not finished
    assert list(batches.ask(["good"]))[-1] == ["good"]


@pytest.mark.quick
def test_one_bad_row_is_its_askers_error_alone(hurried):
    batches = SharedBatches(fails(KeyboardInterrupt("as a panic, no Exception")), at_most=8)

    def last(rows):
        try:
            return list(batches.ask(rows))[-1]
        except KeyboardInterrupt:
            return None
    asked = [["good"], ["bad"], ["fine"], ["well", "done"]] * 3
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(last, asked))
    assert found == [None if rows == ["bad"] else rows for rows in asked]


# --------------------------------------------------------------------------- a batch, quickly

@pytest.mark.quick
def test_a_batch_answers_every_row_as_its_own_adapter_would_alone(tiny_t2l):
    bert, model = load_encoder(GOLDEN / "bert"), load_model(GOLDEN / "llama", torch.float32)
    t2l, tokenizer = load_t2l(tiny_t2l), load_tokenizer(GOLDEN / "llama")
    for linear in t2l.heads.values():
        torch.nn.init.normal_(linear.weight, std=0.05)                   # fresh heads read nothing
    rows = [demo.Row("red", [("Say it.", 0.0)]), demo.Row("house", [("Say it.", 1.5)]),
            demo.Row("red", [("Say it.", 0.5), ("Shout.", 1.0)]), demo.Row("red", [("x", 1.0)])]
    *_, found = demo.answer(demo.Models(t2l, bert, model, tokenizer), rows)
    for row, answer in zip(rows, found):
        lora = mix_loras([(generate_lora(t2l, text, bert), w) for text, w in row.weighed])
        assert answer.text == generate(model, tokenizer, row.prompt, lora)
        assert answer.rows == 4 and answer.nearest == []
    assert len({answer.text for answer in found}) == 4


@pytest.mark.quick
def test_sliders_outside_their_range_count_as_its_ends():
    assert demo.weighed_sentences("a", 5.0, "", 0.5) == [("a", 2.0)]
    assert demo.weighed_sentences("a", float("nan"), "", 0.5) == [("a", 0.0)]
    assert demo.weighed_sentences("a", 1.0, "b", 0.25) == [("a", 0.75), ("b", 0.25)]
    assert demo.weighed_sentences("a", 1.0, "b", -1.0) == [("a", 1.0), ("b", 0.0)]


def test_the_three_lines_load_the_adapter_live(tmp_path, monkeypatch, default_models):
    """With PEFT, beside our own answer in fp32."""
    pytest.importorskip("peft")
    lora = generate_lora(load_t2l(), CAPITALS)
    save_peft(tmp_path / "adapter", *lora, base_model="x")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(demo.USE.format(base=default_models[0]), names)
    tokenizer, ours = load_tokenizer(), load_model(dtype=torch.float32)
    ids = torch.tensor([tokenizer.prompt("hot")])
    with torch.no_grad():
        theirs = names["model"].float()(ids).logits
        torch.testing.assert_close(theirs, ours(ids, lora), atol=2e-3, rtol=1e-3)
        assert (theirs - ours(ids)).abs().max() > 1


@pytest.mark.quick
def test_a_visitor_who_asks_too_often_waits_for_the_next_window(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("utils.serving.time.monotonic", lambda: now[0])
    rate = RateLimit(3, 60)
    assert [rate.allows("a") for _ in range(5)] == [True] * 3 + [False] * 2
    assert rate.allows("b")
    now[0] = 61.0
    assert rate.allows("a")


# ------------------------------------------------------------------------------- the browser

@pytest.fixture(scope="module")
def url(default_models):
    """The page's address; prints the seconds from the command to the first page."""
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "demo.py", "--port", str(port)], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        urllib.request.urlopen(found).read()
        print(f"\nfirst page after {time.perf_counter() - start:.1f} s")
        yield found
        assert process.poll() is None                           # nothing has ended it
    finally:
        process.terminate()
        assert process.wait(30) is not None


@pytest.fixture
def browsers(url, tmp_path):
    """browser() → a new one that shows the page, and downloads into tmp_path."""
    webdriver = pytest.importorskip("selenium.webdriver")
    binary, driver = (next(filter(None, map(shutil.which, names)), None) for names in (
        ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)))
    if not binary or not driver:
        pytest.skip("no Chromium and its driver here")
    opened = []

    def browser() -> Browser:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage",
                     "window-size=1120,1330"):
            options.add_argument(f"--{flag}")
        options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
        opened.append(webdriver.Chrome(options, webdriver.ChromeService(driver)))
        return Browser(opened[-1], url)
    yield browser
    for driver in opened:
        driver.quit()


class Browser:
    def __init__(self, driver, url: str):
        self.driver = driver
        driver.get(url)
        self.wait(lambda: self.find("#answer"))

    def find(self, selector: str):
        return next(iter(self.driver.find_elements("css selector", selector)), None)

    def wait(self, condition, seconds: float = 60):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"not seen: {condition}; {self.shown()}"
            time.sleep(0.05)
        return found

    def read(self, name: str) -> str:
        return self.find(f"#{name} textarea, #{name} input").get_attribute("value")

    def shown(self) -> dict[str, str]:
        return {name: self.read(name) for name in ("sentence", "prompt", "base", "adapted", "other",
                                                   "nearest")}

    def type(self, name: str, text: str) -> None:
        field = self.wait(lambda: self.find(f"#{name} textarea, #{name} input"))
        field.send_keys(SELECT_ALL, text or DELETE)

    def click(self, selector: str) -> None:
        self.driver.execute_script("arguments[0].click()", self.wait(lambda: self.find(selector)))

    def open(self, text: str) -> None:
        """A tab, or an accordion; the page has invisible copies of the tabs' buttons."""
        found = self.driver.find_element(
            "xpath", "//button[@role='tab' or contains(@class, 'label-wrap')]"
            f"[contains(., {text!r})]")
        self.driver.execute_script("arguments[0].click()", found)

    def ask(self, sentence: str, prompt: str) -> None:
        self.type("sentence", sentence)
        self.type("prompt", prompt)
        self.click("#answer")

    def answer(self, sentence: str, prompt: str, wanted: str) -> None:
        """Ask, and wait for the adapted answer; whatever else it shows on the way is seen, too."""
        before, seen = self.read("adapted"), set()

        def there() -> bool:
            seen.add(found := self.read("adapted"))
            return found == wanted
        self.ask(sentence, prompt)
        self.wait(there)
        assert all(wanted.startswith(text) for text in seen - {before}), (seen, wanted)


@pytest.fixture(scope="module")
def expected(default_models):
    """(sentence, prompts) → what t2l.py's adapter answers."""
    t2l, model, tokenizer = load_t2l(), load_model(), load_tokenizer()
    return lambda sentence, prompts: generate(model, tokenizer, prompts,
                                              generate_lora(t2l, sentence))


@pytest.mark.slow
def test_three_unseen_tasks_are_answered_rightly_and_the_base_model_and_control_are_not(browsers):
    page = browsers()
    for sentence, prompt, right in reversed(UNSEEN):
        page.answer(sentence, prompt, right)
        page.wait(lambda: page.read("base") and page.read("other"))
        assert right not in (page.read("base"), page.read("other"))
        assert page.read("control") != sentence
        assert re.match(r"adapter: 460,800 numbers, 1.8 MB; \d+ ms for all adapters of this batch "
                        r"of 3, \d+ ms for the answer", page.read("told"))
        assert len(page.read("nearest").splitlines()) == 3 and "far" not in page.read("nearest")
    time.sleep(3)                                               # the base model writes on
    if file := os.environ.get("SCREENSHOT"):
        page.driver.save_screenshot(str(ROOT / file))

    # Nothing was asked of, or sent to, another machine.
    loaded = page.driver.execute_script(
        "return performance.getEntriesByType('resource').map(e => new URL(e.name).host)")
    assert set(loaded) == {page.driver.execute_script("return location.host")}


@pytest.mark.slow
def test_sliders_move_the_answer_and_a_far_sentence_is_warned_of(browsers):
    page = browsers()
    page.answer(CAPITALS, "hot", "HOT")
    page.open("Strength, and a second sentence")
    number = page.wait(lambda: page.find("#strength input[type=number]"))
    number.send_keys(SELECT_ALL, "0", "\t")                     # and leave it
    page.wait(lambda: page.read("adapted") not in ("", "HOT"))
    page.wait(lambda: page.read("adapted") == page.read("base"))

    # All of the strength for the second sentence.
    number.send_keys(SELECT_ALL, "1", "\t")
    page.type("second", BRACKETS)
    share = page.find("#share input[type=number]")
    share.send_keys(SELECT_ALL, "1", "\t")
    page.ask(CAPITALS, UNSEEN[0][1])
    page.wait(lambda: page.read("adapted") == UNSEEN[0][2])
    assert "921,600 numbers" in page.read("told")

    page.type("second", "")
    page.ask("Tell me how the stock market will do tomorrow, please.", "apple")
    page.wait(lambda: page.read("nearest").startswith("Warning: far from every training task"))


@pytest.mark.slow
def test_a_table_of_prompts_and_a_zip_that_gives_the_same_adapter(browsers, tmp_path, expected):
    page, prompts = browsers(), ["hot", "cold water", "tree"]
    wanted = expected(CAPITALS, prompts)
    page.type("sentence", CAPITALS)
    page.open("Several prompts")
    page.type("prompts", "\n".join(prompts))
    page.click("#answer-all")
    page.wait(lambda: all(text in page.find("#table").text for text in (*prompts, *wanted)))

    page.open("Take it with you")
    page.click("#make-zip")
    page.click("#zip a[download]")
    file = page.wait(lambda: next(tmp_path.glob("*.zip"), None))
    zipfile.ZipFile(file).extractall(tmp_path)
    lora = load_peft(tmp_path / "adapter")
    assert generate(load_model(), load_tokenizer(), prompts, lora) == wanted


@pytest.mark.slow
def test_two_browsers_with_different_sentences_never_see_each_others_answers(browsers, expected):
    """100 requests, 50 of each, at the same time."""
    words = ["hot", "tree", "house", "river", "seven", "cloud", "stone", "music", "paper", "garden"]
    lists = [f"{a}, {b}, chair, green" for a, b in zip(words, words[1:] + words[:1])]
    work = [(CAPITALS, words * 5), (BRACKETS, [f"{line}, dog" for line in lists] * 5)]
    pages = [browsers() for _ in work]

    def ask(page: Browser, sentence: str, prompts: list[str]) -> int:
        answers = dict(zip(prompts, expected(sentence, prompts[:10])))
        for n, prompt in enumerate(prompts):
            page.answer(sentence, prompt, answers[prompt])
        return n + 1
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda page, todo: ask(page, *todo), pages, work)
        assert list(found) == [50, 50]


# ------------------------------------------------------------------------ beside the browser

@cache
def number_of(url: str, name: str) -> int:
    """Which of the page's functions has that name."""
    config = json.load(urllib.request.urlopen(f"{url}/config"))
    return next(i for i, found in enumerate(config["dependencies"]) if found["api_name"] == name)


def post(url: str, data: list, session: str, name: str = "compare") -> list:
    """A request as the page sends it: every event's data until the end."""
    body = json.dumps({"data": data, "session_hash": session, "fn_index": number_of(url, name)})
    request = urllib.request.Request(f"{url}/gradio_api/queue/join", body.encode(),
                                     {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).read()
    found = []
    with urllib.request.urlopen(f"{url}/gradio_api/queue/data?session_hash={session}",
                                timeout=120) as lines:
        for line in lines:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
                if found[-1]["msg"] == "process_completed":
                    return found
    raise AssertionError(f"no end: {found}")


@pytest.mark.slow
def test_sixteen_clients_for_a_minute_are_all_answered(url):
    jobs, lock, seconds = iter(range(10**6)), threading.Lock(), []
    end = time.monotonic() + 60

    def client(i: int) -> int:
        wrong = 0
        while time.monotonic() < end:
            with lock:
                sentence, prompt, right = UNSEEN[next(jobs) % 3]
            start = time.perf_counter()
            *steps, last = post(url, [sentence, prompt, 1, "", 0.5], f"client{i}")
            seconds.append(time.perf_counter() - start)
            wrong += not (last["success"] and last["output"]["data"][1] == right)
        return wrong
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(client, range(16))) == 0
    p95 = statistics.quantiles(seconds, n=20)[-1]
    print(f"\n16 clients: {len(seconds)} requests in 60 s, median {statistics.median(seconds):.1f}"
          f" s, p95 {p95:.1f} s")


@pytest.mark.slow
def test_hostile_input_is_refused_or_shown_as_text_and_the_page_goes_on(browsers, url):
    page = browsers()
    evil = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    page.ask(evil, evil)
    page.wait(lambda: page.read("adapted") or page.read("base"))
    assert page.driver.title == "Text-to-LoRA" and not page.find("img[src=x]")

    # Too long: not typed by a browser, refused by the server; nor are other numbers taken.
    for data in (["x" * 401, "hot", 1, "", 0], [CAPITALS, "y" * 1001, 1, "", 0],
                 [CAPITALS, "\U0001f9ff" * 900, 1, "", 0], [CAPITALS, "hot", 1e9, "", 0],
                 ["", "hot", 1, "", 0], [CAPITALS, "", 1, "", 0], [CAPITALS],
                 [CAPITALS, "hot", "many", "", 0],
                 [CAPITALS, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, 1, "",
                  0]):
        assert not post(url, data, "refused")[-1]["success"], data
    # Half a surrogate pair, a null character, not a number: answered.
    for data in (["\ud800 write", "\udfff\0", 1, "", 0], [CAPITALS, "hot", float("nan"), "", 0]):
        assert post(url, data, "odd")[-1]["success"], data

    # Nothing is read from, or written to, the disk; nothing is fetched; nobody jumps the queue.
    body = json.dumps({"data": [CAPITALS, "hot", 1, "", 0]}).encode()
    for path, sent in {"upload": b"x", "process_recording": b"x", "run/compare": body,
                       "api/compare": body, "call/compare": body, "file=/etc/passwd": None,
                       "file=demo.py": None, f"file={ROOT}/demo.py": None, "../demo.py": None,
                       "file=http://127.0.0.1:1/x": None, "file=http%3A//127.0.0.1:1/x": None,
                       "proxy=http://127.0.0.1:1/x": None, "monitoring/summary": None}.items():
        for prefix in ("gradio_api/", ""):
            request = urllib.request.Request(f"{url}/{prefix}{path}", sent, {
                "Content-Type": "application/json"} if sent else {})
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)
            assert refused.value.code in (403, 404, 405), path

    # A closed tab, in the middle of an answer.
    other = browsers()
    other.ask(*UNSEEN[0][:2])
    other.driver.quit()
    page.answer(*UNSEEN[1])


@pytest.mark.slow
def test_everybody_has_a_zip_of_their_own_whose_place_cannot_be_guessed(url):
    done = [post(url, [f"Write {word}.", 1, "", 0], word, "download") for word in ("red", "blue")]
    links = [events[-1]["output"]["data"][0]["url"] for events in done]
    for link, word in zip(links, ("red", "blue")):
        with zipfile.ZipFile(io.BytesIO(urllib.request.urlopen(link).read())) as file:
            assert f"Write {word}.".encode() in file.read("adapter/adapter_model.safetensors")
    folders = [re.search(r"/(\w+)/adapter\.zip$", link)[1] for link in links]
    assert folders[0] != folders[1] and all(len(folder) >= 32 for folder in folders)


@pytest.mark.slow
def test_who_waits_is_told_their_place(url):
    asked = [CAPITALS, 1, "", 0, "\n".join(["hot", "cold", "tree"] * 5)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda i: post(url, asked, f"place{i}", "table"), range(6)))
    assert all(events[-1]["success"] for events in found)
    places = {event["rank"] for events in found for event in events if event["msg"] == "estimation"}
    assert {0, 1, 2} <= places


@pytest.mark.slow
def test_an_address_that_asks_too_often_is_told_to_wait(url):
    """The last test, for it uses up the minute; new sessions do not help."""
    with ThreadPoolExecutor(8) as pool:              # one by one a slow machine takes over a minute
        found = list(pool.map(lambda i: post(url, ["", "", 1, "", 0], f"often{i}")[-1], range(900)))
    assert any("come from your address" in json.dumps(event) for event in found)
