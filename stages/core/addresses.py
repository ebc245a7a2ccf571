"""Addresses of servers as they may be shown: a login or a token in them is the user's secret."""

import re


def hidden(text: str) -> str:
    """``text`` with `***` for the logins and queries of the addresses in it; rather too much than too little."""
    return re.sub(r"(//[^\s?'\"]*\?)[^\s'\"]+", r"\1***", re.sub(r"(?<=//).*@", "***@", text))
