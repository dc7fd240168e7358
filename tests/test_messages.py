"""Every error that vlpipe raises deliberately has a test of its own words.

A message counts as tested if a string in the tests contains a phrase of it that no other message contains. So neither the advice that
several messages share nor wording common to two of them can be mistaken for a test of one.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = 3  # a phrase has at least this many words, unless no phrase of this length is unique
RAISING = ("require", "refuse", "fail")  # functions that raise for their caller: their string arguments are messages
HOLE, ANY, BREAK = " * ", " ... ", " | "  # a placeholder in a message; a wildcard in a test; the end of a text
# The messages of vlpipe.arguments, of which others are extensions: their callers' words are tested instead.
FRAMES = {" * came as * expected * ", " * came as * expected an integer >= * at most * "}
Scope = dict[str, list[ast.AST]]  # what a function assigns to each local name, and its nested functions


def texts_of(node: ast.AST, scope: Scope) -> list[str]:
    """Return the texts that an expression can have, as far as they are constant."""
    parts: Iterable[ast.AST] = [node]
    if isinstance(node, ast.Constant):
        return [node.value if isinstance(node.value, str) else HOLE]
    if isinstance(node, ast.Name) and node.id in scope:
        inner = {name: nodes for name, nodes in scope.items() if name != node.id}
        return [text for value in scope[node.id] for text in texts_of(value, inner)]
    if isinstance(node, ast.IfExp):
        return texts_of(node.body, scope) + texts_of(node.orelse, scope)
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in texts_of(value, scope)]
    if isinstance(node, ast.FormattedValue | ast.Starred | ast.Return):
        return texts_of(node.value, scope) if node.value else [HOLE]
    if isinstance(node, ast.Lambda):
        return texts_of(node.body, scope)
    if isinstance(node, ast.FunctionDef):
        return [text for inner in ast.walk(node) if isinstance(inner, ast.Return) for text in texts_of(inner, scope)]
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "tf.strings.join":
        return texts_of(node.args[0], scope)
    if isinstance(node, ast.JoinedStr):
        parts = node.values
    elif isinstance(node, ast.List):
        parts = node.elts
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [node.left, node.right]
    else:
        return [HOLE]
    return ["".join(texts) for texts in itertools.product(*(texts_of(part, scope) for part in parts))]


def local_names(function: ast.FunctionDef) -> Scope:
    """Return what a function assigns to each name, and its nested functions."""
    scope: Scope = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            scope.setdefault(node.targets[0].id, []).append(node.value)
        elif isinstance(node, ast.FunctionDef):
            scope[node.name] = [node]
    return scope


def loop_names(loop: ast.For, scope: Scope) -> Scope:
    """Return the constants that the first name of a loop takes: it loops over a tuple, or the constants of a module."""
    first = loop.target.elts[0] if isinstance(loop.target, ast.Tuple) else loop.target
    known = scope.get(ast.unparse(loop.iter).removesuffix(".items()"), [loop.iter])[0]
    values = known.keys if isinstance(known, ast.Dict) else known.elts if isinstance(known, ast.Tuple) else []
    return {ast.unparse(first): [value.elts[0] if isinstance(value, ast.Tuple) else value for value in values] or [known]}


def messages_in(node: ast.AST, scope: Scope) -> Iterator[tuple[int, set[str]]]:
    """Yield the line of each call below a node that creates or raises an error, and the words of its message."""
    if isinstance(node, ast.FunctionDef):
        scope = {**scope, **local_names(node)}
    if isinstance(node, ast.For):
        scope = {**scope, **loop_names(node, scope)}
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).split(".")[-1]
        if name.endswith(("Error", "BadParameter")) or name in RAISING:
            yield node.lineno, {words(text) for argument in node.args for text in texts_of(argument, scope)}
        for keyword in node.keywords:
            if name in ("integer", "number") and keyword.arg == "expected":
                alternatives = itertools.product(texts_of(node.args[0], scope), texts_of(keyword.value, scope))
                yield node.lineno, {words(f"{argument}: came as {HOLE}, expected {expected}.") for argument, expected in alternatives}
    for child in ast.iter_child_nodes(node):
        yield from messages_in(child, scope)


def words(text: str) -> str:
    """Return the words of a text without the punctuation around them, each with a space on both sides.

    The end of `key=*` and the place of a record are placeholders, too; several in a row become one.
    """
    text = re.sub(r"\S*=(?= \*)|0x(?= \*)", "", text)
    found = (word if word == ANY.strip() else word.strip(".,:;!?()[]{}\"'^$") for word in text.split())
    joined = re.sub(r"\*( \*)+", "*", " ".join(word for word in found if word))
    return f" {joined.replace('* record * at byte *', '*')} "


@functools.cache
def known_messages() -> tuple[dict[str, set[str]], str]:
    """Return the words of every message by file and line, and the advice: the constants of modules, which several messages share."""
    messages: dict[str, set[str]] = {}
    advice = []
    for path in sorted((ROOT / "vlpipe").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        values = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
        advice += [words(text) for value in values.values() if isinstance(value, ast.Constant) for text in texts_of(value, {})]
        scope: Scope = {name: [value] for name, value in values.items() if isinstance(value, ast.Dict | ast.Tuple)}
        for line, texts in messages_in(tree, scope):
            own = {text for text in texts - FRAMES if len(text.replace("*", "").split()) > 1}
            place = f"{path.relative_to(ROOT)}:{line}"
            if own:
                messages[f"{place}:2" if place in messages else place] = own
    return messages, BREAK.join(advice)


@pytest.fixture(scope="module")
def known() -> tuple[dict[str, set[str]], str]:
    """What `known_messages` returns."""
    return known_messages()


def phrases(texts: set[str], least: int) -> Iterator[list[str]]:
    """Yield the phrases of a message: parts of `least` or more words, one more with placeholders inside."""
    for text in texts:
        tokens = text.split()
        for begin, end in itertools.combinations(range(len(tokens) + 1), 2):
            phrase = tokens[begin:end]
            if "*" not in (phrase[0], phrase[-1]) and len(phrase) - phrase.count("*") >= least + ("*" in phrase):
                yield phrase


def occurs(phrase: list[str], text: str) -> bool:
    """Whether a text contains a phrase, with anything of at most 20 words for a placeholder."""
    pieces = " ".join(phrase).split(" * ")
    if not all(f" {piece} " in text for piece in pieces):
        return False  # quickly
    return re.search(f" {r' (?:[^ |]+ ){0,20}?'.join(map(re.escape, pieces))} ", text) is not None


@pytest.fixture(scope="module")
def tests() -> str:
    """The words of all strings of the tests, without the escapes and wildcards of regular expressions."""
    texts: list[str] = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.name != Path(__file__).name:
            texts += strings_in(ast.parse(path.read_text("utf-8")))
    return words(re.sub(r"\\(.)", r"\1", re.sub(r"(\.|\\d|\\w|\])[*+]\??", ANY, BREAK.join(texts))))


def strings_in(node: ast.AST) -> Iterator[str]:
    """Yield the strings below a node of a test, except docstrings."""
    if isinstance(node, ast.JoinedStr | ast.Constant):
        yield from texts_of(node, {})
    elif not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        for child in ast.iter_child_nodes(node):
            yield from strings_in(child)


def fault_of(place: str, messages: dict[str, set[str]], advice: str, tests: str) -> str | None:
    """What is wrong with the message at a place; None if some test has words of it that no other message has."""
    others = BREAK.join([advice, *(text for other, texts in messages.items() if other != place for text in texts)])
    for least in range(WORDS, 0, -1):
        own = [phrase for phrase in phrases(messages[place], least) if not occurs(phrase, others)]
        if own:
            break
    if not own:
        return f"the message at {place} has no words that no other message has: {messages[place]}"
    if not any(occurs(phrase, tests) for phrase in own):
        return f"no test has words of {messages[place]}, at {place}, that no other message has"
    return None


def test_a_test_has_words_that_only_this_message_has(known: tuple[dict[str, set[str]], str], tests: str) -> None:
    messages, advice = known
    faults = [fault for place in messages if (fault := fault_of(place, messages, advice, tests))]
    assert not faults, "\n".join(faults)
    assert len(messages) > 600  # they were found


def test_a_message_without_words_of_its_own_or_without_a_test_is_noticed(known: tuple[dict[str, set[str]], str], tests: str) -> None:
    messages, advice = known
    planted = {
        **messages,
        "new": {words("a planted text about purple submarines, which no test has")},
        "twice": next(iter(messages.values())),
    }
    assert str(fault_of("new", planted, advice, tests)).startswith("no test has words of ")
    assert "has no words that no other message has" in str(fault_of("twice", planted, advice, tests))
