"""The page in a browser, from its server: what a person does with it, and what it never does."""

import dataclasses
import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from fake_engine import FakeEngine

from jaxgpt.generation.text import TextWriter
from jaxgpt.serving import page as module
from jaxgpt.serving.engine_types import Busy, Chunk, Token
from jaxgpt.serving.look import look_inside

PAGE = Path(module.__file__).with_name("page.html")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'> & <b>bold</b>"


class Script(FakeEngine):
    """An engine that answers by what it is asked, with numbers that are easy to tell apart."""

    count = 0

    def submit(self, request, on_chunk):
        if self.said(request) == "busy":
            raise Busy(8, 3.0)
        self.count += 1
        return super().submit(request, on_chunk)

    def said(self, request):
        prompt = self.tokenizer.decode(request.prompt)
        return prompt.rpartition("user\n")[2].partition("<|im_end|>")[0]

    def _write(self, request, ticket, on_chunk):
        said, writer = self.said(request), TextWriter(self.tokenizer)
        text = {"script": HOSTILE, "slow": "tick " * 90}.get(
            said, f"Answer {self.count}, é: {said}"
        )
        for place, token in enumerate(self.tokenizer.encode(text)):
            if ticket.cancelled or self.closing.is_set():
                return "cancelled"
            if said == "fail" and place == 4:
                return "error"
            time.sleep(0.03 * (said == "slow"))
            known, logprob = request.top_logprobs is not None, -0.25 * (1 + place)
            top = ((100, -3.0), (token, logprob)) if known else ()
            found = Token(token, logprob if known else None, top)
            on_chunk(Chunk(writer.write([token]), (found,)))
        return "stop"


@pytest.fixture(scope="module")
def model(base, random_params):
    config = dataclasses.replace(base.config, context_length=512)
    return dataclasses.replace(base, config=config, params=random_params(config))


@pytest.fixture(scope="module")
def site(model, serve):
    engine = Script(model.tokenizer)
    with serve(engine, model=model) as url:
        yield SimpleNamespace(url=url, engine=engine)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium, by which the page is tested; install the package chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright")
    with playwright.sync_playwright() as driver:
        # A container's root has no sandbox of chromium's.
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def asked():
    """(path, body) of each request by POST, in order."""
    return []


@pytest.fixture
def context(browser, asked):
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    context.set_default_timeout(20_000)
    wrong = []

    def note(request):
        if request.method == "POST":
            asked.append((urlsplit(request.url).path, request.post_data_json))
        if foreign(request):
            wrong.append(request.url)

    context.on("request", note)
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    yield context
    context.close()
    assert not wrong


def foreign(request):
    """Whether a request goes to another host than this machine's."""
    parts = urlsplit(request.url)
    return parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1"


@pytest.fixture
def page(context, site):
    site.engine.count = 0
    return opened(context, site.url)


def opened(context, url):
    page = context.new_page()
    page.goto(url)
    page.get_by_text("2 layers of 2 heads, a context of 512 tokens").wait_for()
    return page


def send(page, text, answered=True):
    before = page.locator("li.assistant").count()
    page.fill("#message", text)
    page.press("#message", "Enter")
    page.locator("li.assistant").nth(before).wait_for()
    if answered:
        page.locator("#go", has_text="Send").wait_for()


def wait_until(holds, seconds=20.0):
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)


COLOURS = """colours => colours.map(colour => {
  const canvas = document.createElement("canvas").getContext("2d");
  const probe = document.createElement("p");
  probe.style.color = colour;
  document.body.append(probe);
  canvas.fillStyle = getComputedStyle(probe).color;
  probe.remove();
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
})"""


def luminance(colour):
    """Relative luminance of a colour of 8 bits, as of WCAG."""
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4
        for x in (c / 255 for c in colour[:3])
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def answer(page, text):
    return page.locator("li.assistant .text", has_text=text).first


def shown(page, kind="li"):
    return page.locator(f"#messages > {kind} .text").all_inner_texts()


def test_the_page_asks_for_nothing_else():
    text = PAGE.read_text()
    assert not re.search(r"https?://(?!www.w3.org)|url\(|@import|XMLHttp|import\(", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
    assert not re.search(r"<(link|img|iframe|object|script)[^>]+(src|href)=\"(?!data:)", text)
    ids = re.findall(r'\bid="(.*?)"', text)
    assert len(ids) == len(set(ids))
    for name in re.findall(r'(?:aria-labelledby|aria-controls|popovertarget|for)="(.*?)"', text):
        assert name in ids


def test_an_answer_is_streamed(page, asked):
    send(page, "hello")
    assert shown(page) == ["hello", "Answer 1, é: hello"]
    assert page.inner_text("#status") == shown(page)[1]
    send(page, "again")
    path, body = asked[-1]
    assert path == "/v1/chat/completions"
    said = [(message["role"], message["content"]) for message in body["messages"]]
    assert said == [("user", "hello"), ("assistant", shown(page)[1]), ("user", "again")]
    assert body["stream"]
    assert "logprobs" not in body
    assert "tokens" in page.inner_text("li.assistant .acts >> nth=0")


@pytest.mark.slow_but_first
@pytest.mark.parametrize("how", ["button", "key"])
def test_an_answer_is_stopped_and_what_came_is_kept(page, site, asked, how):
    before = site.engine.finished["cancelled"]
    send(page, "slow", answered=False)
    wait_until(lambda: len(shown(page)[1]) > 20)
    if how == "button":
        page.click("#go:has-text('Stop')")
    else:
        page.keyboard.press("Escape")
    page.get_by_text("stopped", exact=True).wait_for()
    assert shown(page)[1].startswith("tick tick")
    wait_until(lambda: not site.engine.stats().busy)
    assert site.engine.finished["cancelled"] == before + 1
    send(page, "on")
    assert asked[-1][1]["messages"][1]["content"].startswith("tick tick")


@pytest.mark.slow
def test_escape_that_closes_something_else_stops_no_answer(page):
    def goes_on():
        before = len(shown(page)[1])
        wait_until(lambda: len(shown(page)[1]) > before + 10)

    send(page, "slow", answered=False)
    page.click("#show-menu")
    page.keyboard.press("Escape")
    assert not page.locator("#menu").is_visible()
    goes_on()
    page.dispatch_event("#message", "keydown", {"key": "Escape", "isComposing": True})
    goes_on()
    page.keyboard.press("Escape")
    page.get_by_text("stopped", exact=True).wait_for()


def test_a_retry_is_a_branch(page, asked):
    send(page, "hello")
    send(page, "more")
    page.locator("[id^=retry-]").first.click()
    page.get_by_text("2/2").wait_for()
    assert shown(page) == ["hello", "Answer 3, é: hello"]
    seeds = [body["seed"] for _, body in asked if body]
    assert len(set(seeds)) == 3
    page.get_by_label("Branch before").click()
    assert shown(page)[1:3] == ["Answer 1, é: hello", "more"]
    page.get_by_label("Next branch").click()
    send(page, "on")
    said = [message["content"] for message in asked[-1][1]["messages"]]
    assert said == ["hello", "Answer 3, é: hello", "on"]


@pytest.mark.slow
def test_a_message_is_edited_and_the_chat_goes_on_from_there(page, asked):
    send(page, "hello")
    send(page, "more")
    page.locator("li.user [id^=edit-]").first.click()
    page.fill("#editor", "good day")
    page.locator("li.user button", has_text="Send").click()
    answer(page, "Answer 3, é: good day").wait_for()
    assert shown(page) == ["good day", "Answer 3, é: good day"]
    page.locator("li.assistant [id^=edit-]").click()
    page.fill("#editor", "I say so.")
    page.get_by_text("Keep as a branch").click()
    send(page, "on")
    said = [message["content"] for message in asked[-1][1]["messages"]]
    assert said == ["good day", "I say so.", "on"]
    page.get_by_label("Branch before").first.click()
    assert shown(page)[0] == "hello"
    assert len(shown(page)) == 4
    page.locator("li.user [id^=edit-]").first.click()
    page.keyboard.press("Escape")
    assert shown(page)[0] == "hello"


@pytest.mark.slow_but_first
@pytest.mark.parametrize("inside", [False, True])
def test_text_is_only_ever_text(page, inside):
    if inside:
        page.click("#look-switch")
    send(page, "script")
    assert shown(page, ".assistant") == [HOSTILE]
    send(page, HOSTILE)
    if inside:
        page.locator(".tokens span").first.click()
        page.locator(".bars").wait_for()
    page.click("#new-chat")
    send(page, HOSTILE)
    assert page.inner_text("#title") == HOSTILE[:60]
    page.reload()
    answer(page, "Answer").wait_for()
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main b, main script, #chats img").count() == 0


@pytest.mark.slow
def test_chats_survive_a_reload_and_can_be_renamed_and_deleted(page):
    send(page, "first")
    page.click("#new-chat")
    send(page, "second")
    page.reload()
    answer(page, "Answer 2, é: second").wait_for()
    assert page.locator("#chats button").all_inner_texts() == ["second", "first"]
    page.once("dialog", lambda dialog: dialog.accept("A better name"))
    page.click("#show-menu")
    page.click("#rename")
    page.click("#chats button:has-text('first')")
    answer(page, "Answer 1, é: first").wait_for()
    send(page, "slow", answered=False)  # what is deleted does not come back with its answer's end
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#show-menu")
    page.click("#delete")
    page.reload()
    page.get_by_text("a context of 512 tokens").wait_for()
    assert page.locator("#chats button").all_inner_texts() == ["A better name"]


DAMAGED = {
    "{": 1,
    "null": 1,
    "[1]": 1,
    '{"id": 3}': 1,
    '{"id": "x", "messages": 5}': 1,
    '{"id": "x", "messages": [{"id": "a", "parent": "a", "role": "user", "text": "loop"}]}': 0,
    '{"id": "x", "messages": [null, {"id": "a", "parent": "", "role": "user", "text": "found", '
    '"tokens": [[1]]}], "chosen": [["", "b"], 7, null], "title": null}': 0,
}


@pytest.mark.slow
def test_damaged_storage_breaks_nothing(page):
    send(page, "well")
    store = "([key, kept]) => localStorage.setItem('jaxgpt.' + key, kept)"
    page.evaluate(store, ["settings", '{"temperature": "hot", "look": 7, "seed": -1}'])
    for kept, unreadable in DAMAGED.items():
        page.evaluate(store, ["chat.x", kept])
        page.reload()
        answer(page, "Answer 1, é: well").wait_for()
        said = page.get_by_text("cannot be read, and is left as it is")
        assert said.count() == unreadable, kept
        assert page.evaluate("localStorage.getItem('jaxgpt.chat.x')") == kept
    page.click("#chats button:has-text('found')")
    assert shown(page) == ["found"]
    send(page, "again")
    assert len(shown(page)) == 3


@pytest.mark.slow
def test_without_storage_the_page_works(context, site):
    context.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name,"
        " { get() { throw new DOMException('forbidden', 'SecurityError'); } });"
    )
    page = opened(context, site.url)
    send(page, "hello")
    assert len(shown(page)) == 2
    assert "lost on a reload" in page.inner_text("#kept")


@pytest.mark.slow
def test_two_tabs_keep_what_each_other_wrote(page, context, site):
    send(page, "first")
    other = opened(context, site.url)
    other.click("#chats button:has-text('first')")
    send(other, "from the other tab")
    send(page, "from this tab")
    other.click("#new-chat")
    send(other, "new in the other tab")
    page.locator("#chats button", has_text="new in the other tab").wait_for()
    page.reload()
    page.click("#chats button:has-text('first')")
    kept = page.evaluate("Object.values(localStorage).join()")
    for text in ("from the other tab", "from this tab", "new in the other tab"):
        assert text in kept
    # Both tabs went on from the first answer, unless the second had heard of the other's.
    assert "from this tab" in shown(page)


@pytest.mark.slow
def test_a_tab_that_writes_keeps_what_another_wrote(page, context, site):
    send(page, "first")
    other = opened(context, site.url)
    other.click("#chats button:has-text('first')")
    send(other, "busy")
    page.get_by_text("8 requests wait already").wait_for()
    send(other, "slow", answered=False)
    page.locator("li.assistant").nth(2).wait_for()
    send(page, "slow", answered=False)
    wait_until(lambda: len(shown(other)[5]) > 20)
    other.keyboard.press("Escape")
    other.locator("#go", has_text="Send").wait_for()
    kept = shown(other)[5]
    wait_until(lambda: shown(page)[5] == kept)
    assert page.inner_text("#go") == "Stop"
    page.reload()
    answer(page, "tick").wait_for()
    assert shown(page)[5] == kept
    assert page.get_by_text("8 requests wait already").is_visible()


@pytest.mark.slow
def test_a_chat_that_another_tab_deleted_stays_so(page, context, site):
    send(page, "slow", answered=False)
    other = opened(context, site.url)
    other.click("#chats button:has-text('slow')")
    other.once("dialog", lambda dialog: dialog.accept())
    other.click("#show-menu")
    other.click("#delete")
    page.locator("#title", has_text="New chat").wait_for()
    wait_until(lambda: not site.engine.stats().busy)
    page.reload()
    page.get_by_text("a context of 512 tokens").wait_for()
    assert page.locator("#chats button").count() == 0


@pytest.mark.slow
def test_a_chat_without_room_is_named_until_there_is_some(page):
    page.evaluate(
        """() => {
          const set = Storage.prototype.setItem;
          Storage.prototype.setItem = function (key, text) {
            const kept = Object.values(this).join();
            if (text.includes("large") && kept.includes("small")) throw new Error("no room");
            set.call(this, key, text);
          };
        }"""
    )
    send(page, "small")
    page.click("#new-chat")
    send(page, "large")
    page.click("#new-chat")
    send(page, "other")
    assert page.inner_text("#kept").startswith(
        "The browser has no room for “large”, which would be"
    )
    page.click("#chats button:has-text('small')")
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#show-menu")
    page.click("#delete")
    page.get_by_text("Chats are kept in this browser alone.").wait_for()
    page.reload()
    page.locator("#chats button", has_text="large").wait_for()


@pytest.mark.slow
def test_a_look_inside(page, asked, model):
    send(page, "hello")
    assert "logprobs" not in asked[-1][1]
    page.click("#look-switch")
    assert page.locator(".tokens").count() == 0
    page.get_by_text("written without a look inside").wait_for()
    page.locator("[id^=retry-]").click()
    page.get_by_text("2/2").wait_for()
    assert (asked[-1][1]["logprobs"], asked[-1][1]["top_logprobs"]) == (True, 10)
    ids = model.tokenizer.encode("Answer 2, é: hello")
    pieces = [model.tokenizer.decode_bytes([token]) for token in ids]
    tokens = page.locator(".tokens span")
    assert tokens.all_text_contents() == [
        piece.decode(errors="backslashreplace") for piece in pieces
    ]
    shares = tokens.evaluate_all(
        "all => all.map(x => parseFloat(x.style.getPropertyValue('--share')))"
    )
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 75
    assert page.get_by_text("Surprise: 0").is_visible()

    tokens.nth(3).click()
    text = pieces[3].decode()
    assert page.locator("#look-title").text_content() == f"“{text}”"
    assert page.inner_text("#looked") == "Probability 37%, a surprise of 1.4 bits."
    rows = page.locator(".bars tbody tr")
    assert rows.locator("th").all_text_contents() == [text, model.tokenizer.decode([100])]
    assert rows.nth(0).locator("td").all_inner_texts() == ["", "37%", "1.4"]
    page.get_by_text("Most at").wait_for()
    path, body = asked[-1]
    assert (path, body["index"], body["answer_token_ids"]) == ("/v1/inside", 2, ids)
    assert_seen(page, model, ids[:3], layer=int(page.input_value("#look-layer")), head=0)
    assert page.locator(".seen .chosen").text_content() == text
    page.select_option("#look-layer", "1")
    page.select_option("#look-head", "1")
    assert_seen(page, model, ids[:3], layer=1, head=1)
    with page.expect_response("**/v1/inside"):
        page.select_option("#look-from", "token")
    assert asked[-1][1]["index"] == 3
    page.locator(".seen .chosen").wait_for(state="detached")  # drawn anew, from the token itself
    assert_seen(page, model, ids[:4], layer=1, head=1)
    page.click("#close-look")
    assert not page.locator("#look").is_visible()
    page.click("#look-switch")
    assert page.locator(".tokens").count() == 0
    assert shown(page)[1] == "Answer 2, é: hello"


def assert_seen(page, model, answer, *, layer, head):
    """That the shares of attention in the panel are those of the model on the conversation."""
    prompt = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    seen = page.locator(".seen span:not(.chosen)")
    titles = seen.evaluate_all("all => all.map(each => each.title)")
    shown = [float(title.partition("%")[0]) / 100 for title in titles]
    look = look_inside(model, [*encoded(model, prompt), *answer])
    assert len(shown) == len(look.tokens)
    assert shown == pytest.approx(look.attention[layer, head], abs=0.006)


def encoded(model, text):
    turns = re.split(r"(?<=\n)(?=hello)|(?<=hello)(?=<)|(?<=>\n)(?=<)", text)
    return [token for piece in turns for token in model.tokenizer.encode(piece, allow_special=True)]


@pytest.mark.slow
def test_a_look_inside_by_the_keyboard(page, asked, model):
    page.click("#look-switch")
    send(page, "hello")
    pieces = page.locator(".tokens span").all_text_contents()
    page.focus(".tokens")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#look-title").text_content() == f"“{pieces[1]}”"
    page.keyboard.press("End")
    assert page.locator("#look-title").text_content() == f"“{pieces[-1]}”"
    page.get_by_text("Most at").wait_for()
    assert sum(path == "/v1/inside" for path, _ in asked) == 1
    page.keyboard.press("Escape")
    assert not page.locator("#look").is_visible()
    assert page.evaluate("document.activeElement.className") == "text tokens"


@pytest.mark.slow
def test_a_look_that_another_token_takes_the_place_of_is_given_up(page):
    page.click("#look-switch")
    send(page, "hello")
    page.route("**/v1/inside", lambda route: None, times=1)  # no answer comes to the first
    with page.expect_request("**/v1/inside"):
        page.locator(".tokens span").nth(1).click()
    with page.expect_event("requestfailed"):
        page.locator(".tokens span").nth(2).click()
    page.get_by_text("Most at").wait_for()


@pytest.mark.slow
def test_a_look_before_the_server_is_there_can_be_tried_again(page):
    page.click("#look-switch")
    send(page, "hello")
    page.route("**/v1/models", lambda route: route.abort())
    page.reload()
    page.locator(".tokens span").nth(1).click()
    page.locator("#look", has_text="The server does not answer").wait_for()
    page.unroute("**/v1/models")
    page.click("#look-again")
    page.get_by_text("Most at").wait_for()


@pytest.mark.slow
def test_a_model_without_a_chat_goes_on_with_a_text(context, asked, model, serve):
    with serve(Script(model.tokenizer), model=model, chat=False) as url:
        page = opened(context, url)
        assert page.get_by_text("it goes on with the text").is_visible()
        page.click("#look-switch")
        send(page, "Once ")
        first = page.locator(".tokens").text_content()
        send(page, " and then")
        path, body = asked[-1]
        assert (path, body["logprobs"]) == ("/v1/completions", 10)
        assert body["prompt"] == "Once Answer 1, é: Once  and then"
        assert first.replace("\\xc3\\xa9", "é") == "Answer 1, é: Once "
        page.locator(".tokens").nth(0).locator("span").nth(4).click()
        page.get_by_text("Most at").wait_for()
        assert asked[-1][1]["prompt"] == "Once "
        assert page.locator(".seen span").first.text_content() == "O"


@pytest.mark.slow
def test_a_key_is_asked_for_and_kept_in_the_tab(context, model, serve):
    with serve(Script(model.tokenizer), model=model, api_key="secret") as url:
        page = context.new_page()
        page.goto(url)
        page.fill("#key", "sécret")
        page.keyboard.press("Enter")
        page.get_by_text("This key has a character that no header can carry").wait_for()
        page.fill("#key:visible", "wrong")
        with page.expect_response("**/v1/models"):
            page.keyboard.press("Enter")
        page.get_by_text("the API key is wrong").wait_for()
        page.fill("#key:visible", "secret")
        page.get_by_text("Use it").click()
        page.get_by_text("a context of 512 tokens").wait_for()
        assert not page.locator("#notice").is_visible()
        send(page, "hello")
        page.reload()
        answer(page, "Answer 1, é: hello").wait_for()
        assert not page.locator("#key-form").is_visible()
        assert "secret" not in page.evaluate("JSON.stringify({ ...localStorage })")


def test_what_goes_wrong_is_said_in_a_line_with_a_way_on(page, asked):
    line = page.locator(".problem:visible").last
    send(page, "busy")
    assert line.inner_text().startswith("8 requests wait already; ask again in 3 s")
    assert page.get_by_text("nothing was written, so the conversation is as it was").is_visible()
    send(page, "fail")
    assert "the model failed at this answer" in line.inner_text()
    begun_answer = shown(page)[-1]
    assert "Answer 1, é: fail".startswith(begun_answer)
    assert begun_answer
    begun = 'data: {"choices": [{"delta": {"content": "Half"}}]}\n\n'
    canned(page, begun)
    send(page, "cut")
    assert "The connection broke; what came is kept." in line.inner_text()
    assert shown(page)[-1] == "Half"
    canned(page, "data: {nonsense\n\n")
    send(page, "nonsense")
    assert "The server's answer cannot be read." in line.inner_text()
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    send(page, "hello")
    assert "The server does not answer. Is it still running?" in line.inner_text()
    page.unroute("**/v1/chat/completions")
    line.get_by_text("Try again").click()
    answer(page, "Answer 2, é: hello").wait_for()
    said = [message["content"] for message in asked[-1][1]["messages"]]
    assert said == ["fail", begun_answer, "cut", "Half", "hello"]


def canned(page, events):
    """Have what is asked from now on be answered by these events."""
    page.unroute("**/v1/chat/completions")
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=events),
    )


@pytest.mark.slow
def test_a_server_that_is_not_there_yet_is_asked_again(context, site):
    context.route("**/v1/models", lambda route: route.abort())
    page = context.new_page()
    page.goto(site.url)
    page.get_by_text("The server does not answer").wait_for()
    context.unroute("**/v1/models")
    page.click("#notice-again")
    page.get_by_text("a context of 512 tokens").wait_for()


@pytest.mark.slow
def test_settings_are_sent_and_kept_within_their_ranges(page, asked):
    page.click("#show-settings")
    page.fill("#set-temperature", "3")
    page.get_by_text("Done").click()
    assert page.locator("#settings").is_visible()
    numbers = {"temperature": 0.25, "top_p": 0.9, "top_k": 7, "seed": 5, "max_tokens": 40}
    for name, value in numbers.items():
        page.fill(f"#set-{name}", str(value))
    page.fill("#system", "Be brief.")
    page.get_by_text("Done").click()
    send(page, "hello")
    page.locator("[id^=retry-]").click()
    page.get_by_text("2/2").wait_for()
    first, second = (body for path, body in asked if body)
    assert {name: first[name] for name in numbers} == numbers
    assert second["seed"] == 6
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}
    page.reload()
    page.get_by_text("2/2").wait_for()
    page.click("#show-settings")
    assert page.input_value("#set-temperature") == "0.25"
    assert page.input_value("#system") == "Be brief."
    page.click("#defaults")
    assert page.input_value("#set-temperature") == "0.8"


@pytest.mark.slow
def test_what_was_left_out_is_said(page):
    for number in range(6):
        send(page, f"{number} " + "Who ran? " * 12)
    assert page.get_by_text("exchanges were left out of what the model read").first.is_visible()
    own = {"exchanges_left_out": 1, "marker_in_message": "<|user|>"}
    for choices in [], [{"index": 0, "delta": {"role": "assistant", "content": ""}}]:
        event = json.dumps({"choices": choices, "jaxgpt": own})
        canned(page, f"data: {event}\n\ndata: [DONE]\n\n")
        send(page, "hello")
        last = page.locator("li.assistant").last
        assert "the oldest exchange was left out" in last.inner_text()
        assert "A message holds <|user|>" in last.inner_text()


@pytest.mark.slow
def test_a_chat_is_copied_and_downloaded(page, context):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    send(page, "hello")
    answer = shown(page)[1]
    page.locator("[id^=copy-]:visible").last.click()
    assert page.evaluate("navigator.clipboard.readText()") == answer
    found = {}
    for button in ("save-json", "save-text"):
        page.click("#show-menu")
        with page.expect_download() as download:
            page.click(f"#{button}")
        name = download.value.suggested_filename
        found[name] = Path(download.value.path()).read_text()
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": answer}]
    assert json.loads(found["hello.json"]) == {"messages": said}
    assert found["hello.txt"] == f"user:\nhello\n\nassistant:\n{answer}\n"


@pytest.mark.slow
def test_the_keyboard_alone_reaches_everything(page):
    page.keyboard.type("hello")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("there")
    page.keyboard.press("Enter")
    answer(page, "Answer 1, é: hello").wait_for()
    page.locator("#go", has_text="Send").wait_for()
    reached, wanted = [], "button:enabled, input, textarea, summary, select"
    visible = page.locator(f":is({wanted}):visible").evaluate_all("all => all.map(each => each.id)")
    for _ in range(len(visible) + 5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        ring = "getComputedStyle(document.activeElement).outlineStyle"
        assert reached[-1] == "" or page.evaluate(ring) != "none", reached[-1]
    assert set(visible) <= set(reached)
    page.focus("#show-settings")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert not page.locator("#settings").is_visible()
    page.locator("[id^=retry-]").focus()
    page.keyboard.press("Enter")
    page.get_by_text("2/2").wait_for()
    assert page.evaluate("document.activeElement.id") == "go"


@pytest.mark.slow
def test_a_narrow_window_scrolls_down_alone(browser, site):
    context = browser.new_context(viewport={"width": 360, "height": 700}, has_touch=True)
    page = context.new_page()
    page.goto(site.url)
    wide = "['html', 'main'].some(name => document.querySelector(name).scrollWidth > 360)"
    assert not page.evaluate(wide)
    page.click("#look-switch")
    page.fill("#message", "x" * 300)
    page.click("#go")
    page.get_by_text("token").first.wait_for()
    page.locator(".tokens span").nth(2).click()
    page.get_by_text("Most at").wait_for()
    assert not page.evaluate(wide)
    page.click("#show-chats")
    assert not page.evaluate(wide)
    page.locator("#chats button").click()
    assert not page.locator("#side").is_visible()
    page.click("#show-settings")
    assert page.evaluate("document.querySelector('dialog').scrollWidth <= 360")
    context.close()


@pytest.mark.slow
def test_colours_can_be_told_apart(page):
    mixed = "color-mix(in srgb, var(--heat) 75%, var(--ground))"
    pairs = [("--ink", "var(--ground)"), ("--ink", "var(--card)"), ("--quiet", "var(--ground)")]
    pairs += [("--quiet", "var(--card)"), ("--on-second", "var(--second)"), ("--ink", mixed)]
    for chosen in ("", "light", "dark"):
        page.click("#show-settings")
        page.select_option("#theme", chosen)
        page.click("#settings button.main")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for ink, ground in pairs:
                found = [
                    luminance(colour) for colour in page.evaluate(COLOURS, [f"var({ink})", ground])
                ]
                assert (max(found) + 0.05) / (min(found) + 0.05) >= 4.5, (ink, ground, scheme)
                assert (found[1] > found[0]) == (
                    (chosen or scheme) == "light"
                ) or ground == "var(--second)"
