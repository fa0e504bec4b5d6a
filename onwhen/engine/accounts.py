"""Where `onwhen.engine.explaining` was looked for before; nothing belongs here, nor must anything new use it."""

from onwhen.engine.explaining import Account

__all__ = ["Account"]
