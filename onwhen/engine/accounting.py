"""Where `onwhen.engine.explaining` was looked for before; nothing belongs here, nor must anything new use it."""

from onwhen.engine.explaining import account_of, explanation_of

__all__ = ["account_of", "explanation_of"]
