"""Middleware by name: what settings may say, what is made of it, and what is said about mistakes."""

import builtins
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import onwhen.middleware
from onwhen import Container, Context, EventBus, RuleSet, Settings, create_memory_storage
from onwhen.errors import RuleDefinitionError, SettingError
from onwhen.middleware import _registry
from onwhen.middleware._registry import KINDS, Chosen, Kind, check_only, chosen_from, switch_on

FOLDER = Path(onwhen.middleware.__file__).parent


class Noted:
    """A middleware that keeps what it was made with, and notes the rules that it is wrapped around."""

    made: list["Noted"]

    def __init__(self, *others: Any, per: float | timedelta = 1, key: Any = None, names: tuple[str, ...] = ()) -> None:
        if per == 0:
            raise RuleDefinitionError(f"{type(self).__name__}: per=0 must be more than 0")
        self.others, self.per, self.key, self.names = others, per, key, names
        self.rules: list[str] = []
        type(self).made.append(self)

    async def __call__(self, ctx: Context, next: Any, /) -> None:
        self.rules.append(ctx.rule.id if ctx.rule is not None else "")
        await next()


class Outside(Noted):
    """The same around whole events."""

    scopes = ("event",)


class Everywhere(Noted):
    """The same around both."""

    scopes = ("event", "rule")


@pytest.fixture(autouse=True)
def _three_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds that stand in for those that there are: what these do is told on pages of their own."""
    kinds: dict[str, Kind] = {}
    for cls in (Noted, Outside, Everywhere):
        monkeypatch.setattr(cls, "made", [], raising=False)
        monkeypatch.setattr(cls, "__module__", f"onwhen.middleware.{cls.__name__.lower()}")
        kinds[cls.__name__.lower()] = Kind(name=cls.__name__.lower(), cls=cls.__name__, objects=("key", "others"))
        module = type(sys)(f"onwhen.middleware.{cls.__name__.lower()}")
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(_registry, "KINDS", {**KINDS, **kinds})


def by_subject(ctx: Context) -> str:
    return ctx.subject.name


def three_rules() -> RuleSet:
    rules = RuleSet("desk")
    for name in ("take", "close", "bill"):
        rules.on("ticket.*", name=name)(lambda ctx: None)
    return rules


def bus_with(given: Any, *rule_sets: RuleSet) -> EventBus:
    bus = EventBus(*(rule_sets or (three_rules(),)), store=create_memory_storage())
    switch_on(bus, chosen_from(given))
    return bus


# -- what there is -------------------------------------------------------------------------------------------------


def test_every_middleware_is_known_by_the_name_of_its_module() -> None:
    """A file without underscore is one kind, and one public name."""
    files = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}
    assert files == set(KINDS)
    assert {kind.cls for kind in KINDS.values()} <= set(onwhen.middleware.__all__)


@pytest.mark.parametrize("name", KINDS)
def test_every_name_leads_to_its_class(name: str) -> None:
    """Which is the same one that programs import."""
    cls = KINDS[name].load()
    assert cls is getattr(onwhen.middleware, KINDS[name].cls)
    assert cls.__name__.lower() == name.replace("_", "")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("logging", {"logger": "shop", "level": "WARNING", "payloads": True, "redact": ["password", "*.token"]}),
        ("tracing", {}),
        ("metrics", {"buckets": [0.1, 1], "max_event_types": 10}),
        ("debug", {"redact": ["password"]}),
        ("error_events", {"subject": "errors:all", "only_final": True}),
        ("partitioning", {"partitions": 4, "own": "0-1,3"}),
        ("deduplication", {"key": "tests.middleware.test_registry:by_subject", "window": "P1D", "shared": True}),
        ("debounce", {"wait": 30, "max_wait": "PT5M", "deliver": "all"}),
        ("throttle", {"per": 60, "trailing": True}),
        ("single_flight", {"key": "tests.middleware.test_registry:by_subject", "ttl": 5}),
        ("fallback", {"alternatives": ["tests.middleware.test_registry:by_subject"], "on": "builtins:OSError"}),
        ("retry", {"attempts": 5, "delay": "PT0.05S", "retry_on": ["builtins:OSError", "builtins:ValueError"]}),
        ("circuit_breaker", {"failures": 3, "open_for": "PT10S", "counts": "builtins:OSError", "shared": True}),
        ("rate_limit", {"rate": 100, "per": 1, "name": "bank", "when_exceeded": "wait"}),
        ("bulkhead", {"limit": 10, "queue": 100, "max_wait": "PT2S"}),
        ("timeout", {"seconds": "PT5S"}),
    ],
)
def test_every_middleware_can_be_switched_on_by_a_setting(name: str, options: dict[str, Any]) -> None:
    """With options of every sort, as they stand in JSON; at least as far as that it is made."""
    [chosen] = chosen_from(json.dumps([{name: options}]))
    assert type(chosen.make()).__name__ == KINDS[name].cls


@pytest.mark.parametrize(("name", "library"), [("Tracing", "opentelemetry"), ("Metrics", "prometheus_client")])
def test_one_is_imported_without_the_others(name: str, library: str) -> None:
    """Who logs needs no OpenTelemetry, and no Prometheus."""
    code = (
        "import sys\n"
        "import onwhen.middleware\n"
        "from onwhen.middleware import Logging\n"
        f"assert {library!r} not in sys.modules\n"
        f"from onwhen.middleware import {name}\n"
        f"assert {library!r} in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """As for any module; and those that are there are shown."""
    with pytest.raises(AttributeError, match=r"'onwhen\.middleware' has no attribute 'Nothing'"):
        _ = onwhen.middleware.Nothing
    assert set(onwhen.middleware.__all__) <= set(dir(onwhen.middleware))


# -- what settings may say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("", []),
        (" , ", []),
        ("noted", ["noted"]),
        (" noted , logging,", ["noted", "logging"]),
        ('["noted", "logging"]', ["noted", "logging"]),
        ('  [{"noted": {}}]', ["noted"]),
        ([], []),
        (("noted",), ["noted"]),
        ("noted,noted", ["noted", "noted"]),
    ],
)
def test_names_with_commas_or_a_list(given: Any, names: list[str]) -> None:
    """As text or as it is read from JSON; the order is kept, because the first one is outermost."""
    assert [one.name for one in chosen_from(given)] == names


def test_what_was_read_once_may_be_given_again() -> None:
    """So that one `Settings` can be made from another one."""
    chosen = chosen_from([{"noted": {"per": 2, "only": "desk.*"}}])
    assert chosen_from(chosen) == chosen


def test_options_follow_the_name() -> None:
    """Those are the constructor's, in its words."""
    [chosen] = chosen_from('[{"noted": {"per": 2.5}}]')
    assert chosen == Chosen(name="noted", options={"per": 2.5})
    chosen.make()
    assert Noted.made[0].per == 2.5


@pytest.mark.parametrize(
    ("text", "value"), [("PT1M30S", timedelta(seconds=90)), ("PT0.5S", timedelta(seconds=0.5)), ("P1D", timedelta(1))]
)
def test_durations_are_seconds_or_iso_8601(text: str, value: timedelta) -> None:
    """As they are in all settings."""
    chosen_from([{"noted": {"per": text}}])[0].make()
    assert Noted.made[0].per == value


@pytest.mark.parametrize("text", ["PT", "P1X", "POST", "P"])
def test_what_only_looks_like_a_duration_stays_a_text(text: str) -> None:
    """The constructor has to say what is wrong with it."""
    chosen_from([{"noted": {"per": text}}])[0].make()
    assert Noted.made[0].per == text


def test_lists_are_tuples() -> None:
    """As a program would give them."""
    chosen_from([{"noted": {"names": ["a", "b"]}}])[0].make()
    assert Noted.made[0].names == ("a", "b")


def test_functions_are_named_with_their_module() -> None:
    """Where an option takes one; elsewhere, and without a colon, a text is a text."""
    chosen_from([{"noted": {"key": "operator:attrgetter", "per": "operator:add", "others": ["operator:neg"]}}])[
        0
    ].make()
    import operator

    assert Noted.made[0].key is operator.attrgetter
    assert Noted.made[0].per == "operator:add"
    assert Noted.made[0].others == (operator.neg,)
    chosen_from([{"noted": {"key": "billing"}}])[0].make()
    assert Noted.made[1].key == "billing"


@pytest.mark.parametrize("name", ["operator:nothing", "no.such.module:key"])
def test_a_function_that_is_not_there_is_an_error(name: str) -> None:
    """The message says which option names it."""
    [chosen] = chosen_from([{"noted": {"key": name}}])
    with pytest.raises(SettingError, match=rf"noted: key='{name}' names nothing: .*no"):
        chosen.make()


# -- where it goes -------------------------------------------------------------------------------------------------


async def test_what_is_chosen_is_wrapped_around_all_rules_in_order() -> None:
    """The first one is outermost, as with `bus.use`."""
    bus = bus_with("noted,everywhere")
    await bus.emit("ticket.taken", "ticket:1")
    assert Noted.made[0].rules == ["desk.take", "desk.close", "desk.bill"]
    assert Everywhere.made[0].rules == ["", "desk.take", "desk.close", "desk.bill"]
    assert bus.rulebook.around("rule") == (Noted.made[0], Everywhere.made[0])
    assert bus.rulebook.around("event") == (Everywhere.made[0],)


@pytest.mark.parametrize(
    ("only", "rules"),
    [
        ("desk.take", ["desk.take"]),
        (["desk.take", "desk.b*"], ["desk.take", "desk.bill"]),
        (["other.*"], []),
    ],
)
async def test_only_some_rules(only: Any, rules: list[str]) -> None:
    """By their ids, or by globs; around both, that leaves the rules."""
    bus = bus_with([{"noted": {"only": only}}, {"everywhere": {"only": only}}])
    await bus.emit("ticket.taken", "ticket:1")
    assert Noted.made[0].rules == Everywhere.made[0].rules == rules


async def test_a_twin_wraps_the_same_rules() -> None:
    """A replay has the rules as they are run elsewhere."""
    bus = bus_with([{"everywhere": {"only": "desk.take"}}, "noted"])
    await bus.twin(store=create_memory_storage()).emit("ticket.taken", "ticket:1")
    assert Everywhere.made[0].rules == ["desk.take"]
    assert len(Noted.made[0].rules) == 3


async def test_one_kind_may_be_chosen_several_times() -> None:
    """With other options for other rules."""
    bus = bus_with([{"noted": {"per": 1, "only": "desk.take"}}, {"noted": {"per": 2, "only": "desk.bill"}}])
    await bus.emit("ticket.taken", "ticket:1")
    assert [(one.per, one.rules) for one in Noted.made] == [(1, ["desk.take"]), (2, ["desk.bill"])]


async def test_code_goes_before_settings() -> None:
    """What the bus uses already of a kind is left as it is; others are added inside of it."""
    own = Noted(per=7)
    bus = EventBus(three_rules(), store=create_memory_storage())
    bus.use(own)
    switch_on(bus, chosen_from("outside,noted,everywhere"))
    switch_on(bus, chosen_from("outside,noted,everywhere"))
    assert Noted.made == [own]
    assert bus.rulebook.around("rule") == (own, Everywhere.made[0])
    assert bus.rulebook.around("event") == (Outside.made[0], Everywhere.made[0])


def test_what_goes_around_events_cannot_be_for_some_rules() -> None:
    """It would be around none of them."""
    with pytest.raises(SettingError, match=r"outside: Outside goes around whole events, so leave out only"):
        bus_with([{"outside": {"only": "desk.*"}}])


async def test_one_that_cannot_be_made_leaves_the_bus_as_it_was() -> None:
    """All or nothing."""
    bus = EventBus(store=create_memory_storage())
    with pytest.raises(SettingError):
        switch_on(bus, chosen_from(["noted", {"everywhere": {"colour": "red"}}]))
    assert bus.rulebook.around("rule") == ()


async def test_only_in_code() -> None:
    """`bus.use(..., only=...)` is what settings use; said twice, both count, and without it all rules do."""
    bus, noted = EventBus(three_rules(), store=create_memory_storage()), Noted()
    told = []
    for only in (["desk.take"], "desk.b*", None, ["desk.take"]):
        bus.use(noted, only=only)
        noted.rules.clear()
        await bus.emit("ticket.taken", "ticket:1")
        told.append([rule.removeprefix("desk.") for rule in noted.rules])
    assert told == [["take"], ["take", "bill"], ["take", "close", "bill"], ["take", "close", "bill"]]


async def test_around_some_rules_and_all_events_in_code() -> None:
    """Each scope is said by itself, and a twin has both; taken away, it is new when it comes again."""
    bus, noted = EventBus(three_rules(), store=create_memory_storage()), Noted()
    bus.use(noted, only="desk.take")
    bus.use(noted, scope="event")
    for one in (bus, bus.twin(store=create_memory_storage())):
        noted.rules.clear()
        await one.emit("ticket.taken", "ticket:1")
        assert noted.rules == ["", "desk.take"]
    bus.rulebook.drop(noted)
    noted.rules.clear()
    bus.use(noted, only="desk.bill")
    await bus.emit("ticket.taken", "ticket:1")
    assert noted.rules == ["desk.bill"]


@pytest.mark.parametrize("only", [[], "", [7], [""]])
def test_only_nothing_is_refused_in_code(only: Any) -> None:
    """A middleware that is around no rule at all is a mistake."""
    bus = EventBus(store=create_memory_storage())
    with pytest.raises(RuleDefinitionError, match="must be ids of rules, or globs"):
        bus.use(Noted(), only=only)


def test_a_glob_that_fits_no_rule_is_refused_where_all_rules_are_known() -> None:
    """A rule that was renamed would be without its protection, and nobody would know."""
    chosen = chosen_from([{"noted": {"only": ["desk.take", "dsek.*"]}}])
    with pytest.raises(
        SettingError, match=r"noted: only 'dsek\.\*' fits no rule; there are desk\.take, desk\.close, d"
    ):
        check_only(chosen, [rule.id for rule in three_rules()])
    check_only(chosen, ["desk.take", "dsek.take"])
    with pytest.raises(SettingError, match="there are none"):
        check_only(chosen, [])


# -- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "logging,trcing",
            r"^\w+='logging,trcing': there is no middleware 'trcing'; there are logging, tracing, metrics",
        ),
        ("Logging", "there is no middleware 'Logging'"),
        ('["logging"', "this is no JSON: .* give names, as logging,metrics, or a JSON list"),
        ('{"logging": {}}', "give names"),
        ('"logging"', "give names"),
        ('[{"logging": {}, "noted": {}}]', "give names"),
        ('[{"logging": 7}]', "give names"),
        ("[7]", "not 7 in it"),
        ('[["logging"]]', "give names"),
        ('[{"noted": {"per": NaN}}]', "NaN is not a number"),
        ('[{"noted": {"per": 1, "per": 2}}]', "names something twice: per, per"),
        ('[{"noted": {"only": 7}}]', "noted: only takes ids of rules"),
        ('[{"noted": {"only": [""]}}]', "noted: only takes ids of rules"),
        ('[{"noted": {"only": []}}]', "noted: only takes ids of rules"),  # as in code: around none is a mistake
        (7, "give names"),
    ],
)
def test_what_cannot_be_read_is_a_setting_that_is_refused(
    given: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In code and in the environment; the error names the setting, and says how it is written."""
    with pytest.raises(SettingError, match=told) as caught:
        Settings(middleware=given)
    assert caught.value.settings == ("middleware",)
    if isinstance(given, str):
        monkeypatch.setenv("ONWHEN_MIDDLEWARE", given)
        with pytest.raises(SettingError, match=told) as caught:
            Settings()
        assert caught.value.settings == ("ONWHEN_MIDDLEWARE",)


def test_an_option_that_is_not_there_is_told_with_those_that_are() -> None:
    """Names of options are spelt wrongly as easily as others."""
    with pytest.raises(SettingError, match=r"noted has no option 'pre'; it has others, per, key, names, only") as e:
        bus_with([{"noted": {"pre": 1}}])
    assert e.value.settings == ("ONWHEN_MIDDLEWARE",)


def test_an_option_that_is_needed_is_named() -> None:
    """How many runs a rate limit lets through, nobody can guess."""
    with pytest.raises(SettingError, match=r"rate_limit needs rate: it has rate, per, burst"):
        bus_with(["rate_limit"])


def test_a_value_is_refused_by_the_constructor() -> None:
    """In its own words, with the name that settings have for it."""
    with pytest.raises(SettingError, match=r"^ONWHEN_MIDDLEWARE: noted: per=0 must be more than 0"):
        bus_with([{"noted": {"per": 0}}])


def without(library: str, monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let a library look as if it were not installed."""
    real: Callable[..., Any] = builtins.__import__

    def refusing(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **more)

    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(builtins, "__import__", refusing)


@pytest.mark.parametrize(("name", "library"), [("tracing", "opentelemetry"), ("metrics", "prometheus_client")])
def test_a_library_that_is_missing_is_told_with_how_to_install_it(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever chooses it has not to know what it is made with."""
    ours = [module for module in sys.modules if module.startswith((f"onwhen.middleware.{name}", "onwhen.middleware._"))]
    without(library, monkeypatch, *(module for module in ours if module != _registry.__name__))
    with pytest.raises(SettingError, match=rf"{name} needs {library}, .*: pip install 'onwhen\[{name}\]'"):
        KINDS[name].load()


# -- through settings ----------------------------------------------------------------------------------------------


async def test_a_container_switches_on_what_its_settings_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, when its bus is made."""
    monkeypatch.setenv("ONWHEN_MIDDLEWARE", json.dumps(["everywhere", {"noted": {"only": "desk.take"}}]))
    container = Container()
    container.include(three_rules())
    await container.event_bus().emit("ticket.taken", "ticket:1")
    assert Noted.made[0].rules == ["desk.take"]
    assert len(Everywhere.made[0].rules) == 4


def test_without_the_setting_nothing_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing at all counts as not set."""
    monkeypatch.setenv("ONWHEN_MIDDLEWARE", "")
    bus = Container().event_bus()
    assert bus.rulebook.around("rule") == bus.rulebook.around("event") == ()


# -- the page ------------------------------------------------------------------------------------------------------


def test_the_table_of_the_page_is_the_registry() -> None:
    """Each kind has its row, in the order that is recommended, with its class."""
    page = (Path(__file__).parents[2] / "docs" / "middleware.md").read_text()
    table = page.partition("<!-- kinds:")[2].partition("<!-- end of kinds -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)\(", table, re.MULTILINE)
    assert rows == [(kind.name, kind.cls) for kind in KINDS.values()]
