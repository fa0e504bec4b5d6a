"""The core: values, rules and asyncio. No files, sockets, Redis, HTTP or metrics in here.

From the bottom up: `values`, `events`, `clock`; `store` (the contract), `state`, `fields`, `subjects`; `rules`,
`chain`, `rulebook`; `context`, `explaining`, `outcomes`, `turns`; `dispatch`, `agenda`, `sessions` and `bus`. What
users need of it is offered by `onwhen` itself.
"""

__all__: list[str] = []
