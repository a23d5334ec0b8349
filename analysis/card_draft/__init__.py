"""Drafts a data card from what lies in a folder."""

from analysis.card_draft.draft import Draft, draft_card

__all__ = ["Draft", "draft_card"]
