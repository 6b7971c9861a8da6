"""A rule book out of a dictionary."""

from __future__ import annotations

from kpctl.live_trace.kernel_rules import ChainHook
from kpctl.live_trace.rule_book import CitedRule

_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")


class FakeRuleBook:
    """
    Rules by chain and handle; what is not in *texts* is "rule HANDLE of CHAIN".

    The hook of a chain is the one that its name ends with, in any case, as names usually do.
    """

    def __init__(self, texts: dict[tuple[str, int], str] | None = None) -> None:
        self.texts = texts or {}
        self.hooks = {"from-network": "prerouting", "from-node": "output"}

    def hook(self, family: str, table: str, chain: str) -> ChainHook | None:
        """Where a chain listens, by its name."""
        named = next((hook for hook in _HOOKS if chain.lower().endswith(hook)), "")
        words = self.hooks.get(chain) or named or self._within(chain)
        return ChainHook(words, 0) if words else None

    @staticmethod
    def _within(chain: str) -> str:
        return next((hook for hook in _HOOKS if f"-{hook}-" in chain), "")

    def rule(self, family: str, table: str, chain: str, handle: int) -> CitedRule:
        """A rule."""
        text = self.texts.get((chain, handle), f"rule {handle} of {chain}")
        return CitedRule(f"{family} {table}", f"handle {handle}", text)
