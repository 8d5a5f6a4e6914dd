"""Values in error messages: short, and without what must not be logged."""

import re

SECRETS = (
    re.compile(r"\w[^\s:/]*://[^\s/@:]*:(?!\d+(/|$))[^@]*@"),  # user:password@, also with a / in the password, but not host:port
    re.compile(r"(?!(?:gs|gcs)://anonymous@)\b(?:s3|gs|gcs|https?)://[^\s/@]+@", re.IGNORECASE),  # a token, or the first half of a key
    re.compile(r"[?&][^=&]*(?:passw|secret|token|key|credential|signature|sig=)", re.IGNORECASE),
)
LONGEST = 200  # characters of a value in a message


def holds_secret(text: str) -> bool:
    """Whether there is an address in the text with a password in it, or a key."""
    return "://" in text and any(pattern.search(text) for pattern in SECRETS)


def brief(value: object) -> str:
    """A value as an error message shows it: not longer than a line, and without passwords, for messages are logged."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of more than 4,300 digits
        text = "a number of thousands of digits"
    if holds_secret(text):
        return "an address with a password or a key in it"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 10]} ... {text[-5:]}"
