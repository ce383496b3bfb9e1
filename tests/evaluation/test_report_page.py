"""The report page: every part optional, escaped, self-contained, equal bytes for equal data."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.cost import Cost, cost_table
from evaluation.quality import quality_table
from evaluation.report import (
    Curve,
    Histogram,
    Intervals,
    Ranked,
    ReportData,
    RhoCurve,
    Spread,
    Stage,
    grid_of,
    render,
    write_report,
)
from evaluation.table import Column, Measured, Table, shown_rows
from image_data.labels import ClassLabels
from image_data.real import load_real
from image_data.sources import ArraySource

HOSTILE = "</text><script>alert(1)</script>$\\frac{<img src=x onerror=alert(2)>"
COST = Cost(1_234_567, 8_900_000, 1.25, 2.5, 64, 40.0, 50.0, 2, "cpu")


def quality(score: float | None, refused: str | None = None) -> dict:
    return {
        "metric": "FD-judge",
        "score": score,
        "score_refused": refused,
        "images": {"fake": 500, "real": 300},
        "kernel_distance": {"mean": 0.001, "standard_error": 0.0002},
        "label_agreement": {"measure": "accuracy", "value": 0.961, "standard_error": 0.01, "unit": ""},
        "precision": 0.9,
        "recall": 0.8,
    }


def full(name: str = "class") -> ReportData:
    """A report with every part, all user texts headed by `name`."""
    digits = load_real("digits")
    space = ClassLabels(tuple(f"{name} {index}" for index in range(10)))
    draws = np.random.default_rng(0)
    table = Table(
        name,
        [Column("method", numeric=False), Column("error", "%", 1, 100, "lower", bars=True)],
        [[name, Measured(0.12, 0.01)], ["other", 0.07], ["third", None]],
        caption=name,
        groups={0: name, 2: "second"},
    )
    steps = np.arange(1000.0)
    return ReportData(
        title=name,
        subtitle=name,
        verdict=name,
        verdict_tone="good",
        verdict_details=[name],
        stages=[Stage(name, "100", name)],
        grids=[grid_of(digits.val, space, name, role) for role in ("real", "accepted", "filtered out")],
        methods=[table],
        density_ratio=Histogram(
            name, name, {name: draws.gamma(2, 1, 200), "b": draws.gamma(1, 1, 50)}, marks={name: 3}
        ),
        warnings=[name],
        notes=[name],
        filter_quality=table,
        ranked=[Ranked(name, name, dict.fromkeys(space.names, 0.1), name, 100, {name: 0.2})],
        ratio_means=table,
        distances=Histogram(name, name, {name: draws.gamma(2, 1, 200)}, means={name: 2.0}, counts={name: 12345}),
        nearest=table,
        nearest_grid=grid_of(digits.val, space, name, "accepted"),
        errors=Spread(name, name, {text: draws.lognormal(-3, 3, 99) for text in space.names}, cuts={space.names[0]: 1}),
        acceptance=table,
        metric_guide={name: name},
        metric_plots=[Intervals(Column(name, name, better="lower"), {name: Measured(1.0, 0.1), "b": Measured(-1.0)})],
        quality=quality_table({name: quality(0.031), "student": quality(None, "too few")}),
        costs=cost_table({name: COST.to_json()}),
        curves=[Curve(name, name, name, {name: (steps, np.sin(steps)), "b": (steps, np.cos(steps))}, caption=name)],
        rho=RhoCurve(name, [0.5, 1.0], [0.1, 0.2], [0.01, float("nan")], 0.5, {name: [0.1, float("nan")]}),
        protocol=[name],
        provenance={name: name},
        commands=[name],
    )


class Reader(HTMLParser):
    """Collects tags, attributes, and the tags left open."""

    VOID = {"meta", "img", "line", "path", "use", "rect", "br", "link", "stop", "circle", "g"}

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_hostile_names_are_text_and_nothing_else() -> None:
    with np.errstate(all="raise"):
        page = render(full(HOSTILE))
    reader = read(page)
    names = {tag for tag, _ in reader.tags}
    assert "script" not in names
    assert not any(key.startswith("on") for _, attributes in reader.tags for key in attributes)
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page
    assert all(
        attributes["src"].startswith("data:image/png;base64,") for tag, attributes in reader.tags if tag == "img"
    )


def test_the_page_needs_nothing_from_outside() -> None:
    page = render(full())
    reader = read(page)
    without_pictures = re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import", without_pictures)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in reader.tags}
    links = [value for _, attributes in reader.tags for key in ("href", "src") if (value := attributes.get(key))]
    assert all(value.startswith(("#", "data:image/png")) for value in links)
    ids = [attributes["id"] for _, attributes in reader.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in links if value.startswith("#")} <= set(ids)
    assert "default-src 'none'" in page


def test_every_part_is_optional() -> None:
    whole, empty = full(), ReportData()
    assert "<section" not in render(empty)
    for field in fields(ReportData):
        read(render(replace(empty, **{field.name: getattr(whole, field.name)})))


def test_empty_values_do_not_break_a_page() -> None:
    nothing = np.zeros(0)
    space = ClassLabels(("a", "b"))
    source = ArraySource(np.zeros((0, 1, 8, 8), np.uint8), np.zeros(0, np.int64))
    page = render(
        ReportData(
            grids=[grid_of(source, space, "empty")],
            density_ratio=Histogram("r", "r", {"a": nothing, "b": np.full(3, np.nan), "c": np.ones(4)}),
            errors=Spread("e", "e", {"a": nothing, "b": np.zeros(5)}),
            ranked=[Ranked("r", "r", {}), Ranked("r", "r", {"a": float("nan"), "b": 0.0})],
            distances=Histogram("d", "d", {"a": np.full(2, np.inf)}),
            curves=[Curve("c", "x", "y", {"a": ([], [])})],
            rho=RhoCurve("m", [], [], []),
            costs=cost_table({}),
            quality=quality_table({}),
            methods=[Table("t", [], [])],
        )
    )
    read(page)
    assert "no values" in page


def test_equal_data_give_equal_bytes_and_provenance_stays_in_its_place(tmp_path: Path) -> None:
    first = write_report(full(), tmp_path / "deep/er/a.html").read_bytes()
    assert first == write_report(full(), tmp_path / "b.html").read_bytes()
    other = render(replace(full(), provenance={"class": "another day"})).splitlines()
    differing = [a for a, b in zip(first.decode().splitlines()[:-1], other, strict=True) if a != b]  # but the mark
    assert len(differing) == 1
    assert len(first) < 400_000


def test_sections_come_in_their_order() -> None:
    found = re.findall(r'<section id="(\w+)"', render(full()))
    assert found == ["pictures", "methods", "filters", "student", "rho", "protocol"]


def test_a_summarys_mean_and_count_stand_in_for_those_of_its_values() -> None:
    shown = {"fakes": np.linspace(0.0, 2.0, 50)}
    page = render(ReportData(density_ratio=Histogram("r", "r", shown, means={"fakes": 1.25}, counts={"fakes": 46000})))
    assert "mean 1.25 of 46\u2009000" in page
    assert "mean 1.00 of 50" in render(ReportData(density_ratio=Histogram("r", "r", shown)))


def test_warnings_stand_before_the_plots_and_notes_after() -> None:
    page = render(replace(full(), warnings=["label 3 starves."], notes=["no distances."]))
    filters = page[page.index('<section id="filters"') : page.index('<section id="student"')]
    places = [filters.index(text) for text in ("label 3 starves.", "<svg", "no distances.")]
    assert places == sorted(places)


def test_grids_hold_the_pixels(tmp_path: Path) -> None:
    digits = load_real("digits")
    grid = grid_of(digits.val, digits.label_space, "Real", "real", columns=4)
    page = render(ReportData(grids=[grid]))
    found = re.search(r"base64,([^\"]+)", page)
    assert found
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(found.group(1)))))
    assert picture.shape == (10 * 17 - 1, 4 * 17 - 1, 4)
    np.testing.assert_array_equal(picture[17:33, 17:33, 0], grid.images[5, 0])
    assert (picture[16, :, 3] == 0).all()


def test_tables_mark_the_best_of_each_group_and_refuse_ragged_rows() -> None:
    columns = [Column("m", numeric=False), Column("e", decimals=1, scale=100, better="lower"), Column("n", decimals=0)]
    rows = [["a", 0.3, 12345], ["b", Measured(0.2, 0.01), -1], ["c", 0.5, None], ["d", 0.6, float("nan")]]
    shown = shown_rows(Table("t", columns, rows, groups={2: "second"}))
    assert [row.cells[1].best for row in shown] == [False, True, True, False]
    assert [row.heading for row in shown] == ["", "", "second", ""]
    assert (shown[1].cells[1].text, shown[1].cells[1].error) == ("20.0", "± 1.0")
    assert [row.cells[2].text for row in shown] == ["12\u2009345", "−1", "–", "–"]
    with pytest.raises(ValueError, match="2 cells for 3"):
        shown_rows(Table("t", columns, [["a", 1]]))


def test_quality_and_cost_tables_say_what_is_missing() -> None:
    table = quality_table({"teacher": quality(0.03), "student": quality(None, "a Fréchet distance needs more")})
    assert table.columns[1].name == "FD-judge"
    assert table.rows[1][1] is None
    assert table.caption == "A Fréchet distance needs more"
    costs = cost_table({"teacher": COST.to_json()})
    assert costs.columns[-1].name == "batch of 64"
    assert "2 threads" in costs.caption
