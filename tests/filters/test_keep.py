"""`--keep`: the language reads back what it writes, equals a NumPy mask, and refuses garbage at its position."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import select
from filters.keep import keep_mask, quantile_rank
from filters.keep_language import FIELDS, OPERATORS, Compare, Joined, Keep, Not, parse, show
from filters.selection import lowest_share
from image_data.labels import ClassLabels, ContinuousLabels
from runtime.engines import LocalEngine
from runtime.errors import UserError
from teacher_sampler.sampling.sampler import sample
from tests.support.columns_of_fakes import Fakes
from tests.support.tiny_sampling import CLASSES, TinyParts, class_plan, save_tiny_teacher, tiny_settings

NUMBERS = st.floats(-3, 3, allow_nan=False).map(lambda value: round(value, 2)) | st.floats(
    allow_nan=False, allow_infinity=False
)
COMPARISONS = st.builds(
    lambda field, operator, number, rank: Compare(field, operator, number, None if field == "label" else rank),
    st.sampled_from(FIELDS),
    st.sampled_from(OPERATORS),
    NUMBERS,
    st.sampled_from([None, "class", "global"]),
)
TREES = st.recursive(
    COMPARISONS,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(Joined, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_what_is_shown_is_read_back(tree: Keep) -> None:
    text = show(tree)
    if len(text) <= 1000:
        assert parse(text) == tree
        assert parse(f" ( {text.replace(' ', '  ')} )\n") == tree


def test_words_bind_as_in_any_language() -> None:
    a, b, c = (Compare("label", "==", float(value)) for value in (1, 2, 3))
    assert parse("label==1 or label==2 and label==3") == Joined("or", (a, Joined("and", (b, c))))
    assert parse("(label==1 or label==2) and label==3") == Joined("and", (Joined("or", (a, b)), c))
    assert parse("not label == 1 and label == 2") == Joined("and", (Not(a), b))
    assert parse("not not (label == 1.0)") == Not(Not(a))
    assert parse("error rank<.9") == Compare("error", "<", 0.9, "class")
    assert parse("error global rank >= -1e-3") == Compare("error", ">=", -0.001, "global")
    assert show(parse("density_ratio > 0.1 and error rank < 0.9")) == "density_ratio > 0.1 and error rank < 0.9"


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 1, "a field"),
        ("density_ratio", 14, "one of < <="),
        ("density_ratio > and", 17, "a number"),
        ("error < 1 error < 2", 11, "and, or, or the end"),
        ("errors < 1", 1, "a field"),
        ("__import__ < 1", 1, "a field"),
        ("error global < 1", 14, "rank after global"),
        ("label rank < 1", 7, "a label has no rank"),
        ("(error < 1", 11, "a closing parenthesis"),
        ("error < 1)", 10, "and, or, or the end"),
        ("error = 1", 7, "an operator"),
        ("error < 1e999", 9, "a finite number"),
        ("error < nan", 9, "a number"),
        ("error < 1 and os.system", 15, "a field"),
        ("not", 4, "a field"),
        ("(" * 60 + "error < 1" + ")" * 60, 42, "nesting"),
    ],
)
def test_a_mistake_is_named_by_its_position(text: str, position: int, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        parse(text)
    assert f"at position {position} stands" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_endless_text_is_refused() -> None:
    for text in ("(" * 100_000, "not " * 100_000, "error < 1 and " * 10_000):
        with pytest.raises(UserError, match="characters long"):
            parse(text)


PIECES = st.lists(
    st.sampled_from([*FIELDS, *OPERATORS, "and", "or", "not", "rank", "global", "(", ")", "0.5", "1", "-", " ", "="])
    | st.text(max_size=4),
    max_size=12,
).map(" ".join)


@settings(max_examples=500, deadline=None)
@given(PIECES | st.text(max_size=60))
def test_garbage_is_one_sentence_with_a_position(text: str) -> None:
    try:
        tree = parse(text)
    except UserError as error:
        position = int(re.search(r"at position (\d+) stands", str(error)).group(1))  # type: ignore[union-attr]
        assert 1 <= position <= len(text) + 1
        assert str(error)[-1] == "."  # noqa: PT017
    else:
        assert parse(show(tree)) == tree


def slow_rank(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    found = []
    for row, (value, group) in enumerate(zip(values, groups, strict=True)):
        mine = np.flatnonzero(groups == group)
        before = [other for other in mine if (values[other], other) < (value, row)]
        found.append(len(before) / len(mine))
    return np.array(found)


def twin(tree: Keep, columns: dict[str, np.ndarray], groups: np.ndarray) -> np.ndarray:
    """The mask by NumPy's own operators, row by row, from the text of the leaves."""
    if isinstance(tree, Not):
        return np.logical_not(twin(tree.part, columns, groups))
    if isinstance(tree, Joined):
        parts = np.stack([twin(part, columns, groups) for part in tree.parts])
        return parts.all(axis=0) if tree.word == "and" else parts.any(axis=0)
    x = columns[tree.field]
    if tree.rank:
        x = slow_rank(x, groups if tree.rank == "class" else np.zeros_like(groups))
    n = tree.number
    return {"<": x < n, "<=": x <= n, ">": x > n, ">=": x >= n, "==": x == n, "!=": x != n}[tree.operator]


@settings(max_examples=150, deadline=None)
@given(TREES, st.integers(1, 25), st.integers(0, 99))
def test_the_mask_equals_its_numpy_twin(tree: Keep, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    columns = {name: np.round(random.normal(size=count), 1) for name in FIELDS}  # with ties
    groups = random.integers(0, 3, count)
    found = keep_mask(tree, columns, groups)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, twin(tree, columns, groups))


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 90), seed=st.integers(0, 99), tenths=st.integers(1, 10), ties=st.booleans())
def test_rank_below_rho_is_rho(count: int, seed: int, tenths: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    error = random.integers(0, 3, count).astype(float) if ties else random.random(count)
    groups, rho = random.integers(0, 4, count), tenths / 10
    kept = np.flatnonzero(quantile_rank(error, groups) < rho)
    np.testing.assert_array_equal(kept, lowest_share(error, groups, rho))


def make_fakes(count: int = 300) -> Fakes:
    random = np.random.default_rng(4)
    ratio, error = (random.random(count).astype(np.float32) for _ in range(2))
    return Fakes(random.integers(0, 3, count), ClassLabels(("a", "b", "c")), error, density_ratio=ratio)


def test_keep_goes_before_rho_and_counts() -> None:
    fakes = make_fakes()
    found = select(fakes, keep="density_ratio > 0.25 and label != 2", rho=0.5, nfake_per_label=20)
    assert np.bincount(fakes.labels[found.rows]).tolist() == [20, 20]
    whole = select(fakes, keep="density_ratio > 0.25 and label != 2", rho=0.5)
    allowed = np.flatnonzero((fakes.density_ratio > 0.25) & (fakes.labels != 2))
    slow = [
        row
        for label in (0, 1)
        for mine in [allowed[fakes.labels[allowed] == label]]
        for row in sorted(mine, key=lambda row: fakes.error[row])[: -(-len(mine) // 2)]
    ]
    np.testing.assert_array_equal(whole.rows, np.sort(slow))
    assert set(found.rows) <= set(whole.rows)
    assert whole.recipe["keep"] == "density_ratio > 0.25 and label != 2.0"
    assert whole.recipe["kept_by_keep"] == len(allowed)
    np.testing.assert_array_equal(select(fakes, keep="error rank < 0.7").rows, select(fakes, rho=0.7).rows)
    np.testing.assert_array_equal(
        select(fakes, keep="error global rank < 0.7").rows, select(fakes, rho=0.7, scope="global").rows
    )


def test_a_stored_float_is_compared_as_the_number_that_was_typed() -> None:
    """float32(0.1) is above 0.1: NumPy would round the typed number first and call them equal."""
    fakes = make_fakes(4)
    fakes.density_ratio = np.full(4, 0.1, dtype=np.float32)
    assert len(select(fakes, keep="density_ratio > 0.1")) == 4


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("error < 0.5", "run `score`"),
        ("density_ratio > 0.5", "sampled without a filter"),
        ("memorisation_distance > 1", "score --nearest"),
        ("label > 7", "keeps none of the 300 fakes"),
        ("label >", "position 8"),
    ],
)
def test_what_the_dataset_lacks_is_named(keep: str, words: str) -> None:
    fakes = make_fakes()
    fakes.sets, fakes.density_ratio = (), None
    with pytest.raises(UserError, match=re.escape(words)):
        select(fakes, keep=keep)
    fakes.labels, fakes.label_space = np.zeros((300, 2)), ContinuousLabels(0.0, 1.0, dimension=2)
    with pytest.raises(UserError, match="vectors"):
        select(fakes, keep="label > 0.5")


def test_keep_on_a_sampled_dataset(tmp_path: Path) -> None:
    teacher = save_tiny_teacher(tmp_path / "teacher", CLASSES)
    fakes = sample(TinyParts(teacher), class_plan(30), tiny_settings(), tmp_path / "fakes", LocalEngine(1))
    cut = float(np.median(fakes.density_ratio))
    found = select(fakes, keep=f"density_ratio >= {cut!r} and not error rank >= 0.5")
    ranks = np.concatenate([slow_rank(fakes.scores().error[fakes.labels == c], np.zeros(30)) for c in range(3)])
    np.testing.assert_array_equal(found.rows, np.flatnonzero((fakes.density_ratio >= cut) & (ranks < 0.5)))
    assert len(fakes.view(found)) == len(found.rows) > 5
