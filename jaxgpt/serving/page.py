"""The page to talk to a model: one file, which may run nothing but its own script and style."""

import base64
import re
from functools import cache
from pathlib import Path

from jaxgpt.files import sha256

_PAGE = Path(__file__).with_name("page.html")


@cache
def read_page() -> str:
    """The page's HTML."""
    return _PAGE.read_text(encoding="utf-8")


@cache
def page_headers(html: str) -> dict[str, str]:
    """Headers of the page: a Content-Security-Policy by the hashes of its script and style."""
    policy = {
        "default-src": "'none'",
        "script-src": _hashes(html, "script"),
        "style-src": _hashes(html, "style"),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    rules = "; ".join(f"{name} {value}" for name, value in policy.items())
    return {
        "content-security-policy": rules,
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",
    }


def _hashes(html: str, tag: str) -> str:
    """The hash of each element's text, as a policy writes it."""
    texts = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", html, re.DOTALL)
    hashes = (base64.b64encode(bytes.fromhex(sha256(text.encode()))).decode() for text in texts)
    return " ".join(f"'sha256-{value}'" for value in hashes) or "'none'"
