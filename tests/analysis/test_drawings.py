"""A graph as text and as a picture: valid whatever names there are, and with all that is in it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onwhen.analysis import Edge, Graph, Node, Place, dot_of, facts_of_graph, mermaid_of, svg_of

SVG = "{http://www.w3.org/2000/svg}"
kinds = st.sampled_from(["event", "property", "rule", "middleware", "unknown"])
nasty = st.one_of(
    st.text(min_size=1, max_size=20),
    st.sampled_from(['a"b', "a]b", "a|b", "<b>&amp;", "-->", "#35;", "`x`", "a\\", "\x1b[31m", "end", "]]>", "\ud800"]),
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    labels = draw(st.lists(nasty, min_size=1, max_size=6))
    nodes = tuple(
        Node(
            id=f"{at}",
            kind=draw(kinds),
            label=label,
            group=draw(st.one_of(st.just(""), nasty)),
            is_pattern=draw(st.booleans()),
            notes=(draw(nasty),),
            place=Place(draw(nasty), 3),
        )
        for at, label in enumerate(labels)
    )
    number = st.integers(0, len(nodes) - 1).map(str)
    edges = draw(
        st.lists(
            st.builds(
                Edge,
                source=number,
                target=number,
                kind=st.sampled_from(["triggers", "emits", "sets", "matches", "defers"]),
                is_timer=st.booleans(),
                is_muted=st.booleans(),
                is_certain=st.booleans(),
                label=st.one_of(st.just(""), nasty, nasty.map(lambda text: f"to {text}")),
            ),
            max_size=8,
        )
    )
    return Graph(nodes=nodes, edges=tuple(edges))


def visible(text: str) -> str:
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


# -- SVG ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(graphs(), nasty)
def test_svg_is_xml_with_every_node_and_line(graph: Graph, title: str) -> None:
    """Self-contained: no script, nothing from elsewhere."""
    text = svg_of(graph, title)
    picture = ET.fromstring(text)
    nodes = [one for one in picture.iter(f"{SVG}g") if one.get("class")]
    assert [one.get("class", "").split()[0] for one in nodes] == [node.kind for node in graph.nodes]
    lines = [
        one for one in picture.iter(f"{SVG}path") if "edge" in one.get("class", "") and one.get("d") != "M0 -4L30 -4"
    ]
    assert len(lines) == len({(edge.source, edge.target) for edge in graph.edges})
    assert all(re.fullmatch(r"M[-\d. ]+([LC][-\d. ]+)+", one.get("d", "")) for one in lines)
    assert all((one.get("marker-end") or "").startswith("url(#head-") for one in lines)
    assert not [name for one in picture.iter() for name in one.attrib if name.rpartition("}")[2] in ("href", "src")]
    assert {one.tag.removeprefix(SVG) for one in picture.iter()} <= {
        *("svg", "g", "title", "style", "defs", "marker", "path", "rect", "circle", "polygon", "text")
    }


def test_svg_shows_more_of_a_name_when_asked() -> None:
    """A long one is cut short; the whole of it, and where it stands, is in the tooltip."""
    node = Node(id="a", kind="rule", label="x" * 80, notes=("when it rains",), place=Place("rules.py", 3))
    text = svg_of(Graph(nodes=(node,), edges=()))
    assert f"<title>rule {'x' * 80}\nwhen it rains\nrules.py:3</title>" in text
    assert re.search(r">x+…x+</text>", text)


def test_svg_tells_timers_and_muted_lines_by_their_dashes() -> None:
    """And the legend says what they mean; what is not there is not in it."""
    nodes = tuple(Node(id=name, kind="rule", label=name) for name in "ab")
    plain = Graph(nodes=nodes, edges=(Edge(source="a", target="b", kind="sets"),))
    dashed = Graph(nodes=nodes, edges=(Edge(source="a", target="b", kind="sets", is_muted=True),))
    assert 'class="edge sets muted"' not in svg_of(plain)
    assert "sets muted</text>" not in svg_of(plain)
    assert 'class="edge sets muted"' in svg_of(dashed)
    assert "sets muted</text>" in svg_of(dashed)


# -- DOT ---------------------------------------------------------------------------------------------------------

TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(->|[\[\]{};=,])|([A-Za-z_][A-Za-z_0-9]*|-?[0-9.]+))', re.DOTALL)


def tokens(text: str) -> Iterator[str]:
    at = 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        assert match, text[at : at + 40]
        yield match[0].strip()
        at = match.end()


def parsed(text: str) -> tuple[dict[str, dict[str, str]], list[tuple[str, str, dict[str, str]]]]:
    """Read what the DOT language calls statements of nodes and edges, and nothing else."""
    found = list(tokens(text))
    assert found[:3] == ["digraph", "onwhen", "{"]
    assert found[-1] == "}"
    nodes: dict[str, dict[str, str]] = {}
    edges: list[tuple[str, str, dict[str, str]]] = []
    rest = iter(found[3:-1])
    for name in rest:
        other, mark = "", next(rest)
        if mark == "->":
            other, mark = next(rest), next(rest)
        assert mark == "["
        facts: dict[str, str] = {}
        while (key := next(rest)) != "]":
            if key == ",":
                continue
            assert next(rest) == "="
            facts[key] = next(rest)
        assert next(rest) == ";"
        if other:
            edges.append((name, other, facts))
        elif name not in ("graph", "node", "edge"):
            nodes[name] = facts
    return nodes, edges


def unquoted(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text[1:-1])


@given(graphs())
def test_dot_can_be_read_back(graph: Graph) -> None:
    """Every node with its label, every edge."""
    nodes, edges = parsed(dot_of(graph))
    labels = [unquoted(facts["label"]).rpartition("\n")[2] for facts in nodes.values()]
    assert labels == [visible(node.label) for node in graph.nodes]
    assert [(a[1:], b[1:]) for a, b, _ in edges] == [(edge.source, edge.target) for edge in graph.edges]


# -- Mermaid -----------------------------------------------------------------------------------------------------

NODE = re.compile(r'  (n\d+)(?:\(\["(.*)"\]\)|\{\{"(.*)"\}\}|\[\["(.*)"\]\]|\["(.*)"\]|\(\("(.*)"\)\)):::(\w+)')
ARROW = re.compile(r'  (n\d+) (?:-->|-\.->)(?:\|"([^"|]*)"\|)? (n\d+)')


@given(graphs())
def test_mermaid_has_a_line_for_each_node_and_arrow(graph: Graph) -> None:
    """Nothing in a name can end a label or begin something else."""
    head, *lines = mermaid_of(graph).splitlines()
    assert head == "flowchart LR"
    nodes = [match for line in lines if (match := NODE.fullmatch(line))]
    arrows = [match for line in lines if (match := ARROW.fullmatch(line))]
    styles = [line for line in lines if re.fullmatch(r"  classDef \w+ [\w:#,]+", line)]
    assert len(nodes) + len(arrows) + len(styles) == len(lines)
    for match, node in zip(nodes, graph.nodes, strict=True):
        label = next(part for part in match.groups()[1:6] if part is not None).rpartition("<br>")[2]
        assert not set(label) & set('"<>[]{}|`\\')
        assert re.sub(r"#(\d+);", lambda code: chr(int(code[1])), label) == visible(node.label)
        assert match[7] == node.kind
    assert {(f"n{edge.source}", f"n{edge.target}") for edge in graph.edges} == {(one[1], one[3]) for one in arrows}


# -- JSON --------------------------------------------------------------------------------------------------------


def test_json_has_a_version_and_stable_names() -> None:
    """Fields may be added; these keep their names."""
    node = Node(id="rule:a.b", kind="rule", label="b", group="a", place=Place("rules.py", 3))
    edge = Edge(source="rule:a.b", target="rule:a.b", kind="defers", is_timer=True, is_certain=False)
    facts = json.loads(json.dumps(facts_of_graph(Graph(nodes=(node,), edges=(edge,)), "rules")))
    assert facts == {
        "format": "onwhen.graph",
        "version": 1,
        "app": "rules",
        "nodes": [
            {
                "id": "rule:a.b",
                "kind": "rule",
                "label": "b",
                "group": "a",
                "pattern": False,
                "notes": [],
                "file": "rules.py",
                "line": 3,
            }
        ],
        "edges": [
            {
                "source": "rule:a.b",
                "target": "rule:a.b",
                "kind": "defers",
                "timer": True,
                "muted": False,
                "certain": False,
                "label": None,
                "file": None,
                "line": None,
            }
        ],
    }


@pytest.mark.parametrize("draw", [svg_of, dot_of, mermaid_of])
def test_an_empty_graph_can_be_drawn(draw: object) -> None:
    """There may be rules that do nothing, and one day none."""
    assert draw(Graph(nodes=(), edges=()))  # type: ignore[operator]
