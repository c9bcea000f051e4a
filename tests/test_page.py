"""The page in a real browser. Skipped where there is no Chromium."""

import json

import pytest

from tests.browser import BROWSER, Browser
from tests.serving import engine_saying, serving

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

LONG = "Χθες το πρωί στο λιμάνι ο δήμαρχος είπε ότι η γέφυρα θα ανοίξει. " * 3
EVIL = "<script>document.title='x'</script><img src=x onerror=\"document.title='x'\"><b>έντονα</b> \u202eανάποδα\u202c"
ANSWER = "document.querySelector('#log > li:last-child > div:last-child .text').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.size(1100, 800)
        yield browser
        assert not browser.problems


def script(tokenizer):
    return lambda prompt: tokenizer.encode(EVIL if "σήμανση" in tokenizer.decode(prompt) else LONG)


def say(browser, text):
    browser.js("document.querySelector('#text').focus()")
    browser.type(text)
    browser.press("Enter", 13)


def test_a_conversation(browser, tokenizer, tmp_path):
    engine = engine_saying(tokenizer, script(tokenizer), block_size=1024, delay=0.001)
    with serving(engine, record=str(tmp_path / "talks.jsonl")) as running:
        browser.open(f"{running.address}/")
        browser.js("document.querySelector('#language').click()")
        assert "επινοεί" in browser.js("document.querySelector('#welcome').innerText")
        assert "φυλάσσεται" in browser.js("document.querySelector('#notice').innerText")

        say(browser, "Τι έγινε;")  # streaming: a part of the answer is there before the whole
        browser.until("document.querySelector('.waiting')?.textContent.length > 20")
        assert len(browser.js(ANSWER)) < len(LONG)
        browser.until("!running")
        assert browser.js(ANSWER) == LONG and browser.js("document.activeElement.id") == "text"
        assert LONG.strip() in browser.js("document.querySelector('#live').textContent")

        engine.network.delay = 0.02
        browser.js("document.querySelector('.again').click()")  # regenerate, and stop by the keyboard
        browser.until("document.querySelector('.waiting')?.textContent.length > 5")
        browser.press("Escape", 27)
        browser.until("!running")
        assert 5 < len(browser.js(ANSWER)) < len(LONG)
        assert "2/2" in browser.js("document.querySelector('.tools').innerText")
        browser.js("document.querySelector('.tools button').click()")  # the version before
        assert browser.js(ANSWER) == LONG
        engine.network.delay = 0

        say(browser, "σήμανση")  # markup stays text, direction marks are gone
        browser.until("turns.length === 2 && !running")
        assert browser.js(ANSWER) == EVIL.replace("\u202e", "").replace("\u202c", "")
        assert browser.js("document.title") == "nanoOracle"
        assert browser.js("document.querySelectorAll('#log script, #log img, #log b').length") == 0

        browser.js("document.querySelector('#log > li:last-child .tools button:last-child').click()")  # a rating
        browser.until("document.querySelector('#consent').open")
        browser.js("document.querySelector('#consent [value=yes]').click()")
        browser.until("document.querySelector('#log > li:last-child [aria-pressed=true]')")
        (line,) = (tmp_path / "talks.jsonl").read_text(encoding="utf-8").splitlines()
        assert [m["content"] for m in json.loads(line)["messages"]][:3] == ["Τι έγινε;", LONG, "σήμανση"]

        browser.open(f"{running.address}/?again")  # a reload keeps the conversation of this tab
        assert browser.js("document.querySelectorAll('#log > li').length") == 2
        browser.js("document.querySelector('#new').click()")
        assert browser.js("document.querySelectorAll('#log > li').length") == 0


def test_phone_width_dark_mode_names_and_languages(browser, tokenizer):
    with serving(engine_saying(tokenizer, LONG)) as running:
        browser.size(360, 640, mobile=True)
        browser.dark(True)
        browser.open(f"{running.address}/")
        assert browser.js("document.documentElement.scrollWidth") <= 360
        background = "getComputedStyle(document.body).backgroundColor"
        browser.until(f"{background} === 'rgb(23, 21, 18)'")
        browser.dark(False)
        browser.until(f"{background} === 'rgb(251, 248, 243)'")
        greeting = "document.querySelector('#welcome h2').textContent"
        english = browser.js(greeting)  # the browser's language
        browser.js("document.querySelector('#language').click()")
        assert (
            browser.js("document.documentElement.lang") == "el"
            and english != browser.js(greeting) == "Τι θέλεις να ρωτήσεις;"
        )
        assert browser.js("document.querySelector('#notice').hidden")
        unnamed = "[...document.querySelectorAll('button')].filter(b => !(b.ariaLabel || b.textContent.trim())).length"
        assert browser.js(unnamed) == 0
        labels = "[...document.querySelectorAll('input, select, textarea')].every(e => e.labels.length)"
        assert browser.js(labels)
        small = "[...document.querySelectorAll('header button, #send')].filter(b => b.offsetHeight < 44).length"
        assert browser.js(small) == 0
        browser.size(1100, 800)


def test_errors_are_sentences_and_a_base_model_continues(browser, tokenizer):
    engine = engine_saying(tokenizer, "και ο φάρος", chat=False)
    with serving(engine, keys=["key"]) as running:
        browser.do("Page.navigate", url=f"{running.address}/")
        browser.until("document.readyState === 'complete' && document.querySelector('#settings')?.open")
        browser.problems.clear()  # the 401 that it was to be told of
    with serving(engine) as running:
        browser.open(f"{running.address}/")
        assert "base model" in browser.js("document.querySelector('#welcome').innerText")
        say(browser, "Το λιμάνι")
        browser.until("turns.length === 1 && !running")
        assert browser.js(ANSWER) == "και ο φάρος"
        engine.network.failing = True
        say(browser, "Ξανά")
        browser.until("turns.length === 2 && !running")
        assert "Something went wrong" in browser.js("document.querySelector('.error').textContent")
    say(browser, "Ακόμη;")  # the server has gone
    browser.until("turns.length === 3 && !running")
    assert "does not answer" in browser.js("document.querySelector('#log > li:last-child .error').textContent")
    browser.problems.clear()
