"""The graph of an app: events, rules and properties, and who triggers whom.

Belongs here: nodes and edges, as data, made from what was read. It must not know how they are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from onwhen.analysis._effects import Emission, Write
from onwhen.analysis._sources import Place
from onwhen.analysis._survey import SeenMiddleware, SeenRule, Survey
from onwhen.analysis._texts import Text, is_glob, meets
from onwhen.analysis._watched import ANY, Watched, owner_of, watched_by
from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED
from onwhen.engine.subjects import Subject
from onwhen.engine.triggers import Trigger

__all__ = ["Edge", "EdgeKind", "Graph", "Node", "NodeKind", "graph_of"]

NodeKind: TypeAlias = Literal["event", "property", "rule", "middleware", "unknown"]
EdgeKind: TypeAlias = Literal["triggers", "emits", "sets", "matches", "defers"]

_VERBS: Final = {SUBJECT_PROPERTY_CHANGED: "changed", SUBJECT_PROPERTY_DELETED: "deleted"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A box of the graph.

    Attributes:
        id: unique in the graph: its kind, a colon, and what it is called.
        kind: an event type or a glob; a property; a rule; a middleware that does something by itself; or what one
            rule does that cannot be told from its code.
        label: what it is called.
        group: the rule set of a rule, the class of a property; else empty.
        is_pattern: it stands for several: a glob, or a name that is known in part.
        notes: what else there is to say, a line each.
        place: where it stands, for rules and middleware.
    """

    id: str
    kind: NodeKind
    label: str
    group: str = ""
    is_pattern: bool = False
    notes: tuple[str, ...] = ()
    place: Place | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """An arrow of the graph.

    Attributes:
        source: id of a node.
        target: id of another, or of the same.
        kind: an event or a property triggers a rule; a rule emits an event or sets a property; an event or a property
            matches one that stands for several; a rule puts itself off.
        is_timer: it is sent later.
        is_muted: it sets off nothing.
        is_certain: it is so whenever the rule ends well; else it may be.
        label: what else there is to say, in a few words.
        place: where in the code it is done.
    """

    source: str
    target: str
    kind: EdgeKind
    is_timer: bool = False
    is_muted: bool = False
    is_certain: bool = True
    label: str = ""
    place: Place | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """What triggers what.

    Attributes:
        nodes: in a fixed order.
        edges: in a fixed order; between two nodes there may be several.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def graph_of(survey: Survey) -> Graph:
    """Return the graph of all rules of a survey."""
    return _Maker(survey).graph()


class _Maker:
    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._nodes: dict[str, Node] = {}
        self._edges: dict[Edge, None] = {}
        self._emitted: dict[str, Text] = {}
        self._heard: dict[str, str] = {}
        self._written: dict[str, Watched] = {}
        self._watched: dict[str, Watched] = {}

    def graph(self) -> Graph:
        for rule in self._survey.rules:
            for trigger in rule.rule.triggers:
                self._add_trigger(rule, trigger)
            self._add_rule(rule)
        for rule in self._survey.rules:
            self._add_effects(rule, f"rule:{rule.id}", rule.rule.subject)
        for middleware in self._survey.middleware:
            reading = middleware.reading
            if reading.emissions or reading.writes or reading.unseen:
                id = self._add_middleware(middleware)
                self._add_effects(middleware, id, middleware.subject)
        self._match()
        return Graph(nodes=tuple(self._nodes.values()), edges=tuple(self._edges))

    # -- nodes

    def _node(self, node: Node) -> str:
        self._nodes.setdefault(node.id, node)
        return node.id

    def _add_rule(self, rule: SeenRule) -> None:
        home, _, name = rule.id.rpartition(".")
        notes = [f"for {_named(rule.rule.subject)}"]
        notes += [f"when {condition}" for condition in rule.conditions]
        notes += [f"inside {middleware.name}" for middleware in rule.around]
        if rule.rule.priority:
            notes.append(f"priority {rule.rule.priority}")
        self._node(
            Node(id=f"rule:{rule.id}", kind="rule", label=name, group=home, notes=tuple(notes), place=rule.place)
        )

    def _add_middleware(self, middleware: SeenMiddleware) -> str:
        notes = ("comes with onwhen",) if middleware.is_ours else ()
        id = f"middleware:{middleware.name}"
        return self._node(Node(id=id, kind="middleware", label=middleware.name, notes=notes, place=middleware.place))

    def _event(self, type: str, *, is_pattern: bool) -> str:
        return self._node(Node(id=f"event:{type}", kind="event", label=type, is_pattern=is_pattern))

    def _property(self, watched: Watched) -> str:
        cls = owner_of(watched.cls, watched.name)
        group = "" if cls is Subject else cls.__qualname__
        without = f" but {', '.join(sorted(watched.without))}" if watched.without else ""
        label = f"any{without}" if watched.name == ANY else watched.name
        id = f"property:{group}{'.' if group else ''}{watched.name}{without}"
        self._node(Node(id=id, kind="property", label=label, group=group, is_pattern=watched.is_pattern))
        return id

    def _unknown(self, of: str, what: str) -> str:
        name = of.partition(":")[2]
        id = f"unknown:{name}"
        known = self._nodes.get(id)
        if known is None:
            self._nodes[id] = Node(id=id, kind="unknown", label="?", notes=(what,))
        elif what not in known.notes:
            self._nodes[id] = replace(known, notes=(*known.notes, what))
        return id

    def _edge(self, edge: Edge) -> None:
        self._edges.setdefault(edge)

    # -- triggers

    def _add_trigger(self, rule: SeenRule, trigger: Trigger) -> None:
        verb = _VERBS.get(trigger.pattern, "")
        label = str(trigger) if trigger.guard is not None else "deleted" if verb == "deleted" else ""
        target = f"rule:{rule.id}"
        is_certain = trigger.guard is None and not rule.filter.is_guard
        if not verb:
            source = self._event(trigger.pattern, is_pattern=is_glob(trigger.pattern))
            self._heard[source] = trigger.pattern
            self._edge(Edge(source=source, target=target, kind="triggers", is_certain=is_certain, label=label))
            return
        for watched in watched_by(rule, trigger):
            source = self._property(watched)
            self._watched[source] = watched
            self._edge(Edge(source=source, target=target, kind="triggers", is_certain=is_certain, label=label))

    # -- effects

    def _add_effects(self, who: SeenRule | SeenMiddleware, id: str, cls: type[Subject]) -> None:
        for emission in who.reading.emissions:
            self._add_emission(emission, id)
        for write in who.reading.writes:
            self._add_write(write, id, cls)
        for deferral in who.reading.deferrals:
            self._edge(Edge(source=id, target=id, kind="defers", is_timer=True, is_certain=False, place=deferral.place))
        for unseen in who.reading.unseen:
            target = self._unknown(id, unseen.what)
            self._edge(Edge(source=id, target=target, kind="emits", is_certain=False, place=unseen.place))

    def _add_emission(self, emission: Emission, id: str) -> None:
        if emission.type.is_unknown:
            target = self._unknown(id, "emits an event of a type that cannot be told")
        else:
            target = self._event(str(emission.type), is_pattern=not emission.type.is_exact)
            self._emitted[target] = emission.type
        words = []
        if emission.is_timer:
            words.append("timer" if emission.key is None else f"timer {emission.key}")
        if emission.target is not None:
            words.append(f"to {emission.target}")
        self._edge(
            Edge(
                source=id,
                target=target,
                kind="emits",
                is_timer=emission.is_timer,
                is_certain=emission.is_certain,
                label=", ".join(words),
                place=emission.place,
            )
        )

    def _add_write(self, write: Write, id: str, cls: type[Subject]) -> None:
        is_flush = write.verb == "flush"
        if write.property.is_unknown and not is_flush:
            target = self._unknown(id, "changes a property whose name cannot be told")
        else:
            watched = Watched(cls, ANY if is_flush else str(write.property))
            target = self._property(watched)
            if not write.is_muted:
                self._written[target] = watched
        label = {"delete": "deletes", "flush": "deletes"}.get(write.verb, "")
        self._edge(
            Edge(
                source=id,
                target=target,
                kind="sets",
                is_muted=write.is_muted,
                is_certain=write.is_certain,
                label=label,
                place=write.place,
            )
        )
        if is_flush:
            event = self._event(SUBJECT_DELETED, is_pattern=False)
            self._emitted[event] = Text.of(SUBJECT_DELETED)
            self._edge(Edge(source=id, target=event, kind="emits", is_certain=write.is_certain, place=write.place))

    # -- what stands for what

    def _match(self) -> None:
        exact = {id: Text.of(type) for id, type in self._heard.items() if not is_glob(type)}
        for source, type in (exact | self._emitted).items():
            for target, pattern in self._heard.items():
                if source != target and (meeting := meets(type, pattern)) != "never":
                    self._edge(Edge(source=source, target=target, kind="matches", is_certain=meeting == "always"))
        for source, written in self._written.items():
            for target, watched in self._watched.items():
                if source != target and watched.covers(written):
                    self._edge(Edge(source=source, target=target, kind="matches"))
            for target, pattern in self._heard.items():
                if meets(Text.of(SUBJECT_PROPERTY_CHANGED), pattern) != "never":
                    self._edge(Edge(source=source, target=target, kind="matches"))


def _named(cls: type[Subject]) -> str:
    return "all subjects" if cls is Subject else f"{cls.__qualname__}, {cls._prefix}*"
