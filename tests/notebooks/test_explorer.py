"""The explorer: one page that needs nothing else, whose numbers are those of the notebook."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgpt
from jaxgpt.tokenization.tokenizer import load_tokenizer
from jaxgpt.training.checkpoint import LoadedModel

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
sys.path.append(str(NOTEBOOKS))

from course import explorer  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TEXT = "Lily </script> packed a map.\nAnd Lily went."


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and those left open."""

    def __init__(self):
        super().__init__()
        self.seen, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def model():
    preset = jaxgpt.get_preset("tiny")
    config = jaxgpt.ModelConfig(
        vocab_size=256, context_length=64, num_layers=2, num_heads=2, embed_dim=32
    )
    params = jax.tree.map(lambda leaf: 8 * leaf, jaxgpt.init_params(config, jax.random.key(0)))
    return LoadedModel(config, params, load_tokenizer("bytes"), 0, preset)


@pytest.fixture(scope="module")
def tokens(model):
    return model.tokenizer.encode(TEXT)


@pytest.fixture(scope="module")
def page(model, tokens):
    return page_of(model, tokens)


def page_of(model, tokens):
    words = np.array(sorted({*b"LMTBN"}))
    question = explorer.Question("hero", TEXT.rindex("Lily") - 1, words, np.array([tokens[0]]))
    return explorer.page(explorer.explore(model, tokens, [question], ["a", "b", "c", "d < e"]))


@pytest.fixture(scope="module")
def committed():
    return explorer.PAGE.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("which", ["page", "committed"])
def test_a_page_is_whole_and_asks_for_nothing_else(which, request):
    text = request.getfixturevalue(which)
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert len(text.encode()) <= 300_000
    names = [name for name, _ in tags.seen]
    assert not {"link", "img", "iframe", "object"} & set(names)
    assert not [attrs for _, attrs in tags.seen if "src" in attrs or "href" in attrs]
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|import\(", text)
    rule = next(a["content"] for t, a in tags.seen if "http-equiv" in a and t == "meta")
    assert rule.startswith("default-src 'none'")
    ids = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    for name in re.findall(r'(?:aria-labelledby|for)="(.*?)"', text):
        assert name in ids
    assert {"noscript", "label", "h1"} <= set(names)
    assert ("html", {"lang": "en"}) in tags.seen


@pytest.mark.slow
def test_the_numbers_of_a_page_are_those_of_the_model(model, tokens, page):
    data = explorer.read(page)
    gpt, row = jaxgpt.GPT(model.config, model.params), jnp.array([tokens])
    for off in ([], ["0.1"], ["0.0", "1.1"], data["heads"]):
        kept = np.array([head not in off for head in data["heads"]]).reshape(2, 2)
        heads = jaxgpt.keep_heads(model.config, jnp.array(kept))
        chances = jax.nn.softmax(jaxgpt.intervene(gpt, row, heads)[0])
        for place in (0, 7, len(tokens) - 2):
            shown = explorer.state(data, place, off)
            best = np.sort(chances[place])[::-1][: data["top"]]
            np.testing.assert_allclose([chance for _, chance in shown.bars], best, atol=0.003)
            bits = -np.log2(chances[place, tokens[place + 1]])
            assert abs(shown.surprise[place] - min(bits, 25.5)) <= 0.051
        assert shown.continuation
    lower = np.tril_indices(len(tokens))
    weights = jaxgpt.activations(gpt, row, "blocks.1.attn.weights")["blocks.1.attn.weights"]
    np.testing.assert_allclose(data["attention"][3] / 255, weights[0, 1][lower], atol=0.003)


@pytest.mark.slow
def test_a_page_is_the_same_each_time(model, tokens, page):
    assert page_of(model, tokens) == page


def test_the_committed_page_is_that_of_the_notebook(committed):
    data = explorer.read(committed)
    assert committed == explorer.page(json.loads(explorer.data_of(committed)))
    notebook = json.loads((NOTEBOOKS / "08_opening.ipynb").read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    printed = "".join(line for output in outputs for line in output.get("text", []))
    name, place = data["questions"][0]["right"], data["questions"][0]["place"]
    finder = re.search(r"found by head (\d\.\d)", printed)[1]
    states = [explorer.state(data, place, off) for off in ([], [finder])]
    for shown in states:
        assert shown.continuation in printed
    assert [shown.bars[0][0] == name for shown in states] == [True, False]


@pytest.mark.whole_run
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("off", [[], ["0.0"], ["0.1", "1.0"]])
def test_a_browser_shows_the_state_that_is_asked_for(committed, off):
    data = explorer.read(committed)
    place = data["questions"][0]["place"] + 1
    address = f"{explorer.PAGE.as_uri()}#off={','.join(off)}&at={place}&colour=change"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", address], capture_output=True, text=True, check=True
    )
    shown = explorer.state(data, place, off)
    bars = re.search(r'<table class="bars".*?</table>', done.stdout, re.DOTALL)[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', bars) == [
        word.strip() for word, _ in shown.bars
    ]
    assert re.findall(r'class="share">(.*?)%', bars) == [f"{100 * p:.0f}" for _, p in shown.bars]
    assert len(re.findall(r'<button[^>]*aria-pressed="false"', done.stdout)) == len(off)
    written = re.search(r'<p id="written">(.*?)</p>', done.stdout)[1]
    assert re.sub(r"<.*?>", "", written).endswith(shown.continuation)
